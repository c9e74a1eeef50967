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
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from explorer.names import unknown
from explorer.query import NAME_PATTERN, TRACES, BatchSpec, Scalar
from hwmodel.validation import wrong
from hwmodel.yaml_file import read_yaml

_Count = Annotated[int, Field(strict=True, ge=1, le=1 << 40)]
_Seed = Annotated[int, Field(strict=True, ge=0, lt=1 << 32)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


class Budget(_Section):
    """How many distinct points are evaluated at most, and how many are asked for at a time."""

    points: _Count = 64
    batch: Annotated[int, Field(strict=True, ge=1, le=4096)] = 8


class Study(_Section):
    """One search. `knobs` are searched, `fixed` hold for every point, `baseline` is what to compare with.

    A knob is a knob of the kernel, or a number of the machine written `machine.PATH`. `routing` is the path of a file
    of recorded choices of experts.
    """

    name: _Name
    machine: str
    kernel: str
    model: str | None = None
    batch: BatchSection | None = None
    options: dict[str, _Count | Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]] = {}
    routing: Annotated[str, Field(min_length=1)] | None = None
    knobs: dict[str, list[Scalar]]
    fixed: dict[str, Scalar] = {}
    baseline: dict[str, Scalar] = {}
    baseline_label: Annotated[str, Field(max_length=80)] = ""
    objective: Literal["time_us", "energy_pj"] = "time_us"
    budget: Budget = Budget()
    sampler: Literal["tpe", "random", "exhaustive"] = "tpe"
    seed: _Seed = 0
    _file: Path | None = PrivateAttr(None)

    @field_validator("knobs")
    @classmethod
    def _choices(cls, knobs: dict[str, list[Scalar]]) -> dict[str, list[Scalar]]:
        if not knobs:
            raise ValueError("give at least one knob with its choices")
        for name, choices in knobs.items():
            if not choices:
                raise ValueError(f"{name}: give at least one choice")
            if len({type(choice) for choice in choices}) > 1:
                raise ValueError(f"{name}: {choices}: the choices of one knob must be of one type")
            if len(set(choices)) < len(choices):
                raise ValueError(f"{name}: {choices}: a choice stands there twice")
        return knobs

    @model_validator(mode="after")
    def _searched_or_fixed(self) -> Study:
        both = sorted(self.knobs.keys() & self.fixed.keys())
        if both:
            raise ValueError(f"{both[0]!r} is searched under 'knobs' and held under 'fixed': keep one of them")
        return self

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

    def located(self) -> Study:
        """Return this study with the paths of machine, model and routing, which start at its file, as seen from here.

        The study itself keeps them as written: what it is does not depend on where it is read from.
        """
        if self._file is None:
            return self
        folder = self._file.parent
        paths = {"machine": _beside(folder, self.machine), "model": self.model and _beside(folder, self.model)}
        return self.model_copy(update=paths | {"routing": self.routing and str(folder / self.routing)})


def _beside(folder: Path, name: str) -> str:
    is_path = "/" in name or name.endswith((".yaml", ".yml", ".json"))
    return str(folder / name) if is_path else name


def load_study(path: Path) -> Study:
    """Read the study file at `path`.

    Raises ValueError naming the file and the line, or the key, its value and what is allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a study is a mapping with the keys {', '.join(Study.model_fields)}")
    content.setdefault("name", path.stem)
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {_first_error(error)}") from None
    study._file = path
    return study


def _first_error(error: ValidationError) -> str:
    unknown_keys = ("extra_forbidden", "invalid_key")  # before the required keys that they misspell
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] not in unknown_keys)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return _line(details[0]) + more


def _line(detail: ErrorDetails) -> str:
    location = [str(part) for part in detail["loc"]]
    path = ".".join(location)
    if detail["type"] == "extra_forbidden":
        sections: dict[str, type[BaseModel]] = {"batch": BatchSection, "budget": Budget}
        section = sections.get(location[0], Study) if len(location) > 1 else Study
        return f"{path}: {unknown('key', location[-1], section.model_fields)}"
    if detail["type"] == "missing":
        return f"{path}: missing, and there is no default"
    if detail["type"] == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{path}: {message}" if path else message
    return wrong(detail)
