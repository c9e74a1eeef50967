"""What all tests share: the folder of reference data, and hypothesis without a clock and without luck.

The same tests get the same examples everywhere; new ones are looked for in the nightly runs, and by every test that
names no number of examples with `--hypothesis-profile=thorough`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent

# without a deadline: a busy machine is no reason to fail
settings.register_profile("rowhit", deadline=None, derandomize=True, max_examples=30)
settings.register_profile("thorough", deadline=None, derandomize=False, max_examples=1000)
settings.load_profile("rowhit")


# A shell that runs the tests in the background lets them, and what they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that compile nothing first: of two workers that begin, one has them while the other compiles."""
    items.sort(key=lambda item: "layouts" not in item.path.parts)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of reference data: ROWHIT_DATA, by default ../shared/data beside the project."""
    path = Path(os.environ.get("ROWHIT_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no reference data at {path}; set ROWHIT_DATA to the folder that holds models/, requests/ ...")
    return path


@pytest.fixture(scope="session")
def data_file(data_dir: Path) -> Callable[[str], Path]:
    """Return a function from a name below the folder of reference data to its path; a part may be missing there."""

    def find(name: str) -> Path:
        if not (data_dir / name).exists():
            pytest.skip(f"no {name} in {data_dir}; set ROWHIT_DATA to a folder that has it")
        return data_dir / name

    return find
