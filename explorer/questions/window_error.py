"""What is known of how far times by windows are from whole runs: `window_error.json`.

`python -m studies.window_error` runs a set of kernels both ways and writes it; answers by windows say it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).parent / "window_error.json"


@dataclass(frozen=True)
class WindowError:
    """Errors of times by windows as shares of the time of a whole run, over so many `programs`.

    `worst_ratio`: of the ratio of the times of two designs of one problem, over so many `ratios`.
    """

    made: str
    programs: int
    median: float
    worst: float
    worst_program: str
    ratios: int
    worst_ratio: float

    @property
    def text(self) -> str:
        return (
            f"off by {100 * self.median:.1f} % in the median and {100 * self.worst:.1f} % in the worst of "
            f"{self.programs} programs that were run whole, too, and the ratio of two designs by up to "
            f"{100 * self.worst_ratio:.0f} %: designs closer than that are told apart by whole runs only"
        )


@lru_cache(maxsize=2)
def known_error(fidelity: str) -> WindowError:
    """Return what comes with the project about "windows" or "auto", whose windows are longer."""
    return WindowError(**json.loads(FILE.read_text("utf-8"))[fidelity])
