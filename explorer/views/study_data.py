"""What one results folder holds, as the tables that views of a study read; taken without a lock.

Between `store` and the views. `read` refuses a folder in which a link leads out of it: a folder that somebody sent
shows nothing of the reader's own files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.search.certificate import Certificate, certify
from explorer.search.samplers import choose
from explorer.storage.details import Details
from explorer.storage.folder import STUDY, Identity, read_details, read_identity, rows_frame, space_frame
from explorer.study.objective import OBJECTIVES, Objective
from explorer.summary import plain
from explorer.views.view import NotShown

if TYPE_CHECKING:
    import pandas as pd

BASELINE, BEST = "Baseline", "Best found"


@dataclass(frozen=True)
class StudyData:
    """One study. `rows` and `space` as `store` gives them, `details` by name of design.

    `name`: what tells it from others on a page of several.
    """

    name: str
    identity: Identity
    rows: pd.DataFrame
    space: pd.DataFrame
    details: Mapping[str, Details] = field(default_factory=dict)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that the study makes small, which its rows have."""
        return tuple(name for name in self.identity.study.objectives if name in self.rows)

    @property
    def objective(self) -> Objective:
        """The first of them, with its words."""
        return OBJECTIVES[self.identity.study.objectives[0]]

    @property
    def settings(self) -> tuple[str, ...]:
        """The columns that say what was asked, searched knobs first."""
        return tuple(name for name in self.identity.settings if name in self.rows)

    @cached_property
    def knobs(self) -> tuple[str, ...]:
        """The searched knobs that had more than one value in what was simulated."""
        return tuple(
            name for name in self.identity.study.knobs if name in self.rows and self.done[name].nunique(dropna=True) > 1
        )

    @cached_property
    def done(self) -> pd.DataFrame:
        """The simulated rows in the order asked."""
        return self.rows[self.rows["status"] == "simulated"]

    @cached_property
    def best(self) -> dict[str, Any]:
        """The first of the simulated rows with least of the first objective."""
        return plain(self.done.iloc[int(self.done[self.objective.metric].argmin())])

    @cached_property
    def baseline(self) -> dict[str, Any]:
        """The row that others are compared with: the first asked."""
        return plain(self.rows.iloc[0])

    @cached_property
    def certificate(self) -> Certificate:
        """What is proven about the first objective."""
        return certify(self.space, self.rows, self.objective)

    @property
    def sampler(self) -> str:
        """The sampler that was used, also where the study left the choice open."""
        study = self.identity.study
        combinations = math.prod(len(choices) for choices in study.choices.values())
        return choose(study.sampler, combinations, study.budget.points, len(study.objectives))[0]

    def varied(self) -> tuple[str, ...]:
        """Return the knobs; NotShown where what was simulated has one value of each."""
        if not self.knobs:
            raise NotShown("the simulated points do not differ in any knob")
        return self.knobs

    def workloads(self) -> tuple[str, ...]:
        """Return the names of the workloads of a mix; NotShown without one."""
        columns = [str(name) for name in self.rows if str(name).startswith("mix.")]
        names = [name.split(".")[1] for name in columns if name.endswith(".time_us")]
        if not names:
            raise NotShown("the study has one workload, not a mix")
        return tuple(dict.fromkeys(names))

    def cut(self, keep: pd.Series[bool]) -> StudyData:
        """Return the study with the rows to keep, and the baseline, which every view shows.

        Details of a best that is not kept are left out: those of another are not read.
        """
        kept = keep.fillna(False).astype(bool)
        kept.iloc[0] = True
        found = replace(self, rows=self.rows[kept])
        if found.best["point"] != self.best["point"]:
            found = replace(found, details={BASELINE: self.details[BASELINE]} if self.details else {})
        return found


def read(folder: Path, name: str = "", details: bool = True) -> StudyData:
    """Return what a results folder holds; ValueError where it holds nothing, or leads out of itself."""
    if os.path.lexists(folder / STUDY):  # otherwise it is no results folder, whatever lies in it
        check_contained(folder)
    identity, rows = read_identity(folder), rows_frame(folder)
    found = StudyData(name or identity.study.name, identity, rows, space_frame(folder))
    if not details:
        return found
    designs = {BASELINE: found.baseline, BEST: found.best}
    return replace(found, details={name: read_details(folder, int(row["point"])) for name, row in designs.items()})


def named(folders: Sequence[Path]) -> list[str]:
    """Return a name for each results folder: that of its study, numbered where several are alike."""
    names = [read_identity(folder).study.name for folder in folders]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, start=1)]


def check_contained(folder: Path) -> None:
    """Raise ValueError naming what in a results folder leads out of it."""
    root = folder.resolve()
    parts = [path for pattern in ("*", "details/*") for path in folder.glob(pattern)]
    for path in parts:
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise ValueError(f"{path}: a link that leads out of the results folder; replace it by what it leads to")
