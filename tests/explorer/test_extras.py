from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from explorer.extras import missing
from explorer.search import samplers

ROOT = Path(__file__).parents[2]


def test_a_package_that_is_missing_is_installed_as_an_extra_of_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for name in ("cmaes", "gp"):
        with pytest.raises(
            ValueError, match=rf"^sampler: {name}: needs \w+: pip install -e '\.\[{name}\]' in the clone"
        ):
            samplers.check(name, 1)
        assert name in extras
    sources = "".join(path.read_text() for path in (ROOT / "explorer").rglob("*.py"))
    assert set(re.findall(r'missing\(.*, "(\w+)"\)', sources)) == {"cluster", "dashboard"} <= extras.keys()
    assert str(missing("--cluster", "Dask", "cluster")).startswith("--cluster: needs Dask: pip install -e '.[cluster]'")
