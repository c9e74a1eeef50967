from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from explorer.study import Study

HERE = Path(__file__).parent


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The fake simulator, importable by name in this process and in the workers it starts."""
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("fake_evaluator")


@pytest.fixture
def study() -> Study:
    """A study of 36 combinations: 24 distinct points, 2 of which do not fit."""
    return Study.model_validate(
        {
            "name": "fake-study",
            "machine": "nowhere",
            "kernel": "fake",
            "knobs": {
                "layout": ["page head", "head page", "head  page"],
                "tile": [16, 32, 64, 128],
                "stages": [2, 3, 4],
            },
            "baseline": {"layout": "page head", "tile": 16},
            "baseline_label": "PH, 16",
            "budget": {"points": 12, "batch": 4},
        }
    )
