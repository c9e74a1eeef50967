"""A memory controller and its memory as one file: which part at which data rate, which policies, which address map.

The door for everything that replays or checks traces: `load_config` reads a shipped composition by name or any YAML
file by path and gives a frozen `DramConfig`; `DramConfig.dram()` is the controller that runs. The files in `configs/`
are examples; those that begin with `ram2_` and `ds3_` behave as Ramulator 2.1 and DRAMsim3 do, tick by tick. As in
part and machine files, every number has a source, or the word `assumed` and why.
Not described here: several stacks (a machine's business), and policies that `hwmodel.dram.policy` does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from hwmodel import units
from hwmodel.description import AddressMapSpec
from hwmodel.dram.organisation import Organisation
from hwmodel.dram.policy import Policy, check_refresh_interval
from hwmodel.dram.policy_spec import PolicySpec
from hwmodel.dram.standards import Rule, Standard, check_sources, rules, standard
from hwmodel.dram.timing import TICKS, Limit, Timing
from hwmodel.quantities import BitsPerSecond
from hwmodel.validation import first_problem, keys_at, unknown
from hwmodel.yaml_file import read_scalar, read_yaml
from layouts import AddressMap

if TYPE_CHECKING:
    from hwmodel.dram.controller import Dram

CONFIGS = Path(__file__).parent / "configs"
_ORGANISATION = tuple(field.name for field in fields(Organisation) if field.name != "channels")
_TIMING = tuple(name for name in TICKS if name.startswith("n"))
_INTERVALS = ("nREFI", "nREFIpb")  # at most so long: they round down

Count = Annotated[int, Field(strict=True, ge=1, le=1 << 30)]
Share = Annotated[float, Field(strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DramConfig(_Part):
    """A controller with its memory; `organisation` and `timing` in the file replace numbers of the standard.

    `timing` values are integers (ticks) or times such as "16250 ps", which round up to whole CK (refresh intervals
    down). Made by `load_config` and `with_overrides`; the properties are what the description comes to.
    """

    name: str
    description: str
    standard: str
    pin_rate: BitsPerSecond
    channels: Annotated[int, Field(strict=True, ge=1, le=64)]
    organisation_changes: dict[str, Count] = Field(default={}, alias="organisation")
    timing_changes: dict[str, Any] = Field(default={}, alias="timing")
    policy_spec: PolicySpec = Field(alias="policy")
    address_map_spec: AddressMapSpec = Field(alias="address_map")
    sources: dict[str, str]
    _where: str = PrivateAttr("")
    _tree: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def where(self) -> str:
        """What an error about this configuration begins with: the file it was read from, or the shipped name."""
        return self._where or f"config {self.name}"

    @cached_property
    def part(self) -> Standard:
        """The standard with the organisation of this configuration."""
        try:
            shipped = standard(self.standard)
        except ValueError as error:
            raise ValueError(f"standard: {error}") from None
        changes = {"channels": self.channels} | self.organisation_changes
        return replace(shipped, organisation=replace(shipped.organisation, **changes))

    @property
    def organisation(self) -> Organisation:
        return self.part.organisation

    @cached_property
    def timing(self) -> Timing:
        """The timing in ticks at the pin rate, with what this configuration replaces."""
        try:
            timing = self.part.timing(self.pin_rate)
        except ValueError as error:
            raise ValueError(f"pin_rate: {error}") from None
        changes = {name: _ticks(name, value, timing) for name, value in self.timing_changes.items()}
        if 0 < changes.get("nBL", timing.nBL) < timing.nBL:
            raise ValueError(f"timing: nBL {changes['nBL']}: a burst takes {timing.nBL} ticks on its pins, or more")
        if "nREFI" in changes and "nREFIpb" not in changes:
            interval_ck = changes["nREFI"] // timing.ticks_per_ck
            changes["nREFIpb"] = interval_ck // self.organisation.banks * timing.ticks_per_ck
        return Timing.from_ticks({field.name: getattr(timing, field.name) for field in fields(Timing)} | changes)

    @cached_property
    def policy(self) -> Policy:
        return Policy(**self.policy_spec.model_dump())

    @cached_property
    def address_map(self) -> AddressMap:
        """The map from byte addresses to the places of this memory, which is one stack."""
        sizes = {"stack": 1} | self.organisation.field_sizes()
        spec = self.address_map_spec
        return AddressMap.create(spec.fields, spec.hashes, sizes, self.organisation.burst_bytes)

    @property
    def peak_bytes_per_second(self) -> Fraction:
        """All data pins at the data rate."""
        return self.part.peak_bytes_per_second(self.pin_rate)

    def rules(self) -> tuple[Rule, ...]:
        """Return the timing rules between commands."""
        return rules(self.timing, self.organisation)

    def dram(self, **options: Any) -> Dram:
        """Return the controller at rest; `options` are those of `hwmodel.dram.controller.Dram`.

        Raises ValueError for an organisation that the compiled controller has no room for.
        """
        from hwmodel.dram.controller import Dram

        try:
            return Dram(self.timing, self.organisation, 1, self.address_map.compiled(), self.policy, **options)
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from None

    def with_overrides(self, changes: Mapping[str, object]) -> DramConfig:
        """Return this configuration with values at dotted paths (such as "policy.read_queue") replaced.

        Values are numbers, or texts as in a file. Raises ValueError naming an unknown path with the nearest ones, or
        a value that the field does not take; the lists of the address map cannot be replaced.
        """
        if not changes:
            return self
        tree = {key: dict(value) if isinstance(value, dict) else value for key, value in self._tree.items()}
        for path, value in changes.items():
            if path in ("address_map.fields", "address_map.hashes"):
                raise ValueError(f"config path {path!r} is a list, and lists cannot be set: write a config file")
            if path not in SETTABLE:
                raise ValueError(unknown("config path", path, SETTABLE))
            head, _, last = path.partition(".")
            if last:
                tree.setdefault(head, {})[last] = read_scalar(value)
            else:
                tree[head] = read_scalar(value)
            tree["sources"][path] = "what-if"
        return _validated(tree, self.where)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of the configuration as a JSON-able tree, with their sources and what follows of them."""
        o = self.organisation
        unchanged = {name for name in ("organisation_changes", "timing_changes") if not getattr(self, name)}
        return self.model_dump(by_alias=True, exclude=unchanged) | {
            "capacity_bytes": o.capacity_bytes,
            "peak_bytes_per_second": int(self.peak_bytes_per_second),
            "tick_ps": float(10**12 / self.timing.tick_hz),
            "timing_ticks": {name: getattr(self.timing, name) for name in TICKS},
        }


SETTABLE = (
    "standard",
    "pin_rate",
    "channels",
    *(f"policy.{name}" for name in PolicySpec.model_fields),
    *(f"organisation.{name}" for name in _ORGANISATION),
    *(f"timing.{name}" for name in _TIMING),
)


def config_names() -> tuple[str, ...]:
    """Return the names of the shipped configurations."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


@lru_cache(maxsize=64)
def load_config(name: str) -> DramConfig:
    """Return the shipped configuration `name`, or the one described in the YAML file at path `name`.

    Raises ValueError with one line: the file, the path of the value, the value, and what is allowed.
    """
    if name in config_names():
        path, where = CONFIGS / f"{name}.yaml", f"config {name}"
    elif name.endswith((".yaml", ".yml")):
        path, where = Path(name), name
    else:
        raise ValueError(unknown("config", name, config_names()) + ", or a path ending in .yaml")
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else units.shown(tree)
        raise ValueError(f"{path}: {found}; allowed: a mapping with the keys {', '.join(keys_at(DramConfig))}")
    return _validated(tree, where)


def _validated(tree: dict[str, Any], where: str) -> DramConfig:
    """Return the configuration of a tree, with everything resolved once, so that all errors are found now."""
    try:
        config = DramConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{where}: {first_problem(error, DramConfig)}") from None
    try:
        _check_names(config)
        _check_sources(config)
        for path, resolved in (("", "part"), ("", "timing"), ("", "policy"), ("address_map: ", "address_map")):
            _resolve(config, path, resolved)
        try:
            check_refresh_interval(config.timing, config.organisation, config.policy.refresh)
        except ValueError as error:
            raise ValueError(f"timing.{error}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    config._where, config._tree = where, tree
    return config


def _resolve(config: DramConfig, path: str, name: str) -> None:
    try:
        getattr(config, name)
    except ValueError as error:
        raise ValueError(f"{path}{error}") from None


def _check_names(config: DramConfig) -> None:
    for key, changes, known in (
        ("organisation", config.organisation_changes, _ORGANISATION),
        ("timing", config.timing_changes, _TIMING),
    ):
        for name in changes:
            if name not in known:
                raise ValueError(unknown("key", f"{key}.{name}", [f"{key}.{other}" for other in known]))


def _check_sources(config: DramConfig) -> None:
    for path, source in config.sources.items():
        if not source.strip():
            raise ValueError(f"sources.{path}: {source!r}: name a source, or write `assumed` and why")
    given = config.model_dump(by_alias=True, exclude={"name", "description", "sources"}, exclude_unset=True)
    paths: list[str] = []
    for key, value in given.items():
        paths += [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]
    check_sources(config.sources, paths, (*SETTABLE, "organisation", "timing"))


def _ticks(name: str, value: object, timing: Timing) -> int:
    """Return a timing value in ticks: an integer as it is, a time in whole CK."""
    if type(value) is int:
        return value
    try:
        time_fs = units.parse(value, "time")
    except ValueError:
        raise ValueError(
            f"timing.{name}: {units.shown(value)}; allowed: an integer of ticks, or a time such as 15 ns"
        ) from None
    ck_hz = timing.tick_hz / timing.ticks_per_ck
    limit = Limit(time_fs=time_fs)
    if name in _INTERVALS:
        return int(limit.exact_ck(ck_hz) // 1) * timing.ticks_per_ck
    return limit.ticks(ck_hz, timing.ticks_per_ck)
