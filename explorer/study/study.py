"""A study: the question of one search, read from a YAML file and checked before anything is computed.

It stands at the start of the path: `load_study` gives a frozen `Study`, `Study.hash` identifies it (the seed
included), and `space` spans its points: the combinations of its choices, and the baseline, which may lie
outside of them and can then be the best found. Text is read with the safe loader, bounded in size, without
aliases and without repeated keys. Names of machines, models, kernels and knobs are checked later, by those who
own them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from explorer.names import unknown
from explorer.query import NAME_PATTERN, TRACES, BatchSpec, Scalar
from explorer.search.samplers import SAMPLERS
from explorer.study.constraint import Constraint, parse_constraints
from explorer.study.knobs import Knob, check_conditions, read_knob, require_scalar
from explorer.study.mix import Risk
from explorer.study.objective import OBJECTIVES
from hwmodel.validation import written, wrong
from hwmodel.yaml_file import read_yaml

_Count = Annotated[int, Field(strict=True, ge=1, le=1 << 40)]
_Seed = Annotated[int, Field(strict=True, ge=0, lt=1 << 32)]
_PERCENT = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4})? ?%", re.ASCII)
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


MOST_FAULTS = 8  # assumed: of a file that are told at once


def _size(value: Any) -> Any:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 40
    if not is_count and not (isinstance(value, str) and re.fullmatch(NAME_PATTERN, value, re.ASCII)):
        raise ValueError(f"{written(value)}; allowed: a whole number from 1, or a name")
    return value


def _risk(value: Any) -> Any:
    if isinstance(value, dict) and (wrong_key := next((key for key in value if key != "cvar"), None)):
        raise ValueError(unknown("key", str(wrong_key), ["cvar"]))
    share = value.cvar if isinstance(value, CvarSection) else value.get("cvar") if isinstance(value, dict) else None
    is_share = isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share < 1
    if not is_share and value not in ("mean", "worst"):
        raise ValueError(
            f"{written(value)}; allowed: mean, worst, or {{cvar: 0.9}} with a number from 0 to less than 1"
        )
    return value


Options = dict[str, Annotated[int | str, BeforeValidator(_size)]]


class BatchSection(_Section):
    """The batch: `sequences` with one `context`, or drawn from a `trace`; `seed` also shuffles the pages."""

    sequences: _Count
    context: _Count | None = None
    trace: Literal["azure", "azure-2023-conversation", "mooncake", "mooncake-conversation"] | None = None
    seed: _Seed = 0

    @field_validator("trace")
    @classmethod
    def _full_name(cls, trace: str | None) -> str | None:
        return TRACES[trace] if trace else None

    @model_validator(mode="after")
    def _one_source(self) -> BatchSection:
        if (self.context is None) == (self.trace is None):
            raise ValueError("give one of 'context' (tokens of every sequence) and 'trace'")
        return self

    def spec(self, trace_path: str | None) -> BatchSpec:
        """Return the batch as the simulator is asked for it."""
        path = trace_path if self.trace else None
        return BatchSpec(self.sequences, self.context, self.trace, self.seed, path)


class Workload(_Section):
    """One workload of a mix: what is not given is the study's. `weight` is its share of the work, over their sum."""

    model: str | None = None
    batch: BatchSection | None = None
    options: Options = {}
    routing: Annotated[str, Field(min_length=1)] | None = None
    weight: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = 1.0


class CvarSection(_Section):
    """The mean of the worst part of the weight: of the worst tenth at 0.9."""

    cvar: Annotated[float, Field(ge=0, lt=1)]


class Budget(_Section):
    """How many distinct points are evaluated at most, and how many of them are under way at a time.

    A point is asked for when all but the last `batch` before it are known, whatever the number of workers.
    """

    points: _Count = 64
    batch: Annotated[int, Field(strict=True, ge=1, le=4096)] = 8


class Study(_Section):
    """One search. `knobs` are searched, `fixed` hold for every point, `baseline` is what to compare with.

    A knob is a knob of the kernel, or a number of the machine written `machine.PATH`; see `knobs` for how its choices
    are written, and `constraint` for what combinations must obey. `objectives` are made small, all of them on `mix`
    under `risk` where there is one. The search ends early when the best is proven within `target` of the best possible.
    `routing` is the path of a file of recorded choices of experts.
    """

    name: _Name
    machine: str
    kernel: str
    model: str | None = None
    batch: BatchSection | None = None
    options: Options = {}
    routing: Annotated[str, Field(min_length=1)] | None = None
    mix: dict[_Name, Workload] = {}
    risk: Annotated[Literal["mean", "worst"] | CvarSection, BeforeValidator(_risk)] = "mean"
    knobs: dict[str, Any]
    constraints: list[Annotated[str, Field(min_length=1)]] = []
    fixed: dict[str, Scalar] = {}
    baseline: dict[str, Scalar] = {}
    baseline_label: Annotated[str, Field(max_length=80)] = ""
    objectives: Annotated[tuple[str, ...], Field(min_length=1)] = ("time_us",)
    target: str | None = None
    budget: Budget = Budget()
    sampler: str = "auto"
    seed: _Seed = 0
    _file: Path | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, content: Any) -> Any:
        """Read `objective: time_us` as one of `objectives`."""
        if not isinstance(content, dict) or "objective" not in content:
            return content
        if "objectives" in content:
            raise ValueError("give one of 'objective' and 'objectives'")
        rest = {key: value for key, value in content.items() if key != "objective"}
        return rest | {"objectives": [content["objective"]]}

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if len(self.objectives) > 1:
            return content
        return {("objective" if key == "objectives" else key): value for key, value in content.items()} | {
            "objective": self.objective
        }

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in OBJECTIVES:
                raise ValueError(unknown("objective", name, OBJECTIVES))
        if len(set(names)) < len(names):
            raise ValueError(f"{', '.join(names)}: an objective stands there twice")
        return names

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(unknown("sampler", name, SAMPLERS))
        return name

    @field_validator("knobs")
    @classmethod
    def _readable(cls, knobs: dict[str, Any]) -> dict[str, Any]:
        if not knobs:
            raise ValueError("give at least one knob with its choices")
        for name, asked in knobs.items():
            try:
                read_knob(name, asked)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return knobs

    @field_validator("fixed", "baseline")
    @classmethod
    def _scalars(cls, values: dict[str, Scalar]) -> dict[str, Scalar]:
        for name, value in values.items():
            try:
                require_scalar(value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return values

    @field_validator("constraints")
    @classmethod
    def _comparisons(cls, texts: list[str]) -> list[str]:
        parse_constraints(texts)
        return texts

    @field_validator("target", mode="before")
    @classmethod
    def _percentage(cls, value: object) -> object:
        if value is not None and not (isinstance(value, str) and _PERCENT.fullmatch(value)):
            raise ValueError(f"{repr(value)[:40]}; allowed: a percentage such as 2 %")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        both = sorted(self.knobs.keys() & self.fixed.keys())
        if both:
            raise ValueError(f"{both[0]!r} is searched under 'knobs' and held under 'fixed': keep one of them")
        try:
            check_conditions(self.searched, self.fixed)
        except ValueError as error:
            raise ValueError(f"knobs: {error}") from None
        if self.risk != "mean" and len(self.mix) < 2:
            raise ValueError("risk: there is no 'mix' of workloads to take it over")
        return self

    @property
    def objective(self) -> str:
        """The first objective, that of the tables."""
        return self.objectives[0]

    @property
    def searched(self) -> tuple[Knob, ...]:
        """The knobs with their choices spelled out."""
        return tuple(read_knob(name, asked) for name, asked in self.knobs.items())

    @property
    def choices(self) -> dict[str, tuple[Scalar, ...]]:
        """The choices of every searched knob."""
        return {knob.name: knob.choices for knob in self.searched}

    @property
    def combinations(self) -> int:
        """How many combinations of choices there are."""
        return math.prod(len(choices) for choices in self.choices.values())

    @property
    def conditions(self) -> tuple[Constraint, ...]:
        """The constraints, read."""
        return parse_constraints(self.constraints)

    @property
    def tolerance(self) -> float | None:
        """How far above the best possible the best found may be for the search to stop, 0.02 for 2 %."""
        return None if self.target is None else float(self.target.rstrip(" %")) / 100

    @property
    def over(self) -> Risk:
        """How the numbers of the mix's workloads become one."""
        if isinstance(self.risk, CvarSection):
            return Risk("cvar", 1 - self.risk.cvar)
        return Risk(self.risk)

    @property
    def hash(self) -> str:
        """Return the hexadecimal digest of everything the study says."""
        text = json.dumps(self.model_dump(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def with_seed(self, seed: int | None) -> Study:
        """Return this study with another search seed; None keeps it."""
        return self if seed is None else self.model_copy(update={"seed": seed})

    @property
    def file(self) -> Path | None:
        """The file the study was read from."""
        return self._file

    def read_from(self, file: Path) -> Study:
        """Return this study as read from a file."""
        study = self.model_copy()
        study._file = file
        return study

    def located(self) -> Study:
        """Return this study with the paths of machine, model and routing, which start at its file, as seen from here.

        The study itself keeps them as written: what it is does not depend on where it is read from.
        """
        if self._file is None:
            return self
        folder = self._file.parent
        mix = {name: workload.model_copy(update=_found(folder, workload)) for name, workload in self.mix.items()}
        return self.model_copy(update=_found(folder, self) | {"machine": _beside(folder, self.machine), "mix": mix})


def _found(folder: Path, part: Study | Workload) -> dict[str, str | None]:
    return {"model": part.model and _beside(folder, part.model), "routing": part.routing and str(folder / part.routing)}


def _beside(folder: Path, name: str) -> str:
    return str(folder / name) if is_path(name) else name


def is_path(name: str) -> bool:
    """Whether a machine or a model is named by a file, not by the name of a shipped one."""
    return "/" in name or name.endswith((".yaml", ".yml", ".json"))


def load_study(path: Path) -> Study:
    """Read the study file at `path`.

    Raises ValueError naming the file and the line, or the key, its value and what is allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a study is a mapping with the keys {', '.join(Study.model_fields)}")
    content.setdefault("name", path.stem)
    if content.get("mix") == {}:
        raise ValueError(f"{path}: mix: {{}}; allowed: workloads by name")
    try:
        return Study.model_validate(content).read_from(path)
    except ValidationError as error:
        raise ValueError(f"{path}: {_faults(error)}") from None


def _faults(error: ValidationError) -> str:
    """Return all that is wrong with a study, in one line."""
    unknown_keys = ("extra_forbidden", "invalid_key")  # before the required keys that they misspell
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] not in unknown_keys)
    more = [f"and {len(details) - MOST_FAULTS} more"] if len(details) > MOST_FAULTS else []
    return "; ".join([*map(_line, details[:MOST_FAULTS]), *more])


def _keys(location: list[str]) -> list[str]:
    """Return the keys of a section of the file."""
    if not location:
        return [*Study.model_fields, "objective"]
    if "batch" in location:
        return list(BatchSection.model_fields)
    sections: dict[str, type[BaseModel]] = {"budget": Budget, "mix": Workload, "risk": CvarSection}
    return list(sections[location[0]].model_fields)


def _line(detail: ErrorDetails) -> str:
    location = [str(part) for part in detail["loc"]]
    path = ".".join(location)
    if detail["type"] == "extra_forbidden":
        return f"{path}: {unknown('key', location[-1], _keys(location[:-1]))}"
    if detail["type"] == "missing":
        return f"{path}: missing, and there is no default"
    if detail["type"] == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{path}: {message}" if path else message
    return wrong(detail)
