"""What there is: the kernels and the machines with their facts, for `rowhit kernels` and `rowhit machines`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, get_args

from explorer.programs import kernel_of, machine_of


def list_kernels() -> dict[str, dict[str, Any]]:
    """Return the facts of every kernel by name, family by family."""
    from workloads.kernels import KERNELS

    return {name: describe_kernel(name) for name in KERNELS}


def kernel_families() -> dict[str, dict[str, str]]:
    """Return what every kernel does, by family and name."""
    from workloads.kernels import FAMILIES

    return {family: {kernel.name: kernel.description for kernel in members} for family, members in FAMILIES.items()}


def describe_kernel(name: str) -> dict[str, Any]:
    """Return what a kernel does and needs, its sizes, and its knobs with default, meaning and allowed values."""
    from workloads.kernels import FAMILIES

    template = kernel_of(name)
    shown = {
        knob.name: {"default": knob.default, "meaning": knob.metadata["meaning"], "allowed": knob.metadata["allowed"]}
        for knob in fields(template.Knobs)
    }
    return {
        "description": template.description,
        "family": next(family for family, members in FAMILIES.items() if template in members),
        "needs": list(template.needs),
        "sizes": list(template.options),
        "optional_sizes": dict(template.optional),
        "meanings": dict(template.sizes),
        "knobs": shown,
    }


def list_machines() -> dict[str, dict[str, Any]]:
    """Return the summary of every machine by name."""
    from hwmodel.spec import machine_names

    return {name: describe_machine(name) for name in machine_names()}


def describe_machine(name: str) -> dict[str, Any]:
    """Return the summary of one machine, shipped or in a file; ValueError for one that cannot be run."""
    return dict(machine_of(name, ()).spec.summary())


def machine_units() -> dict[str, str]:
    """Return the base unit ("B", "Hz", "fs", "fJ", ...) of every number of a machine that has one, by its path."""
    from hwmodel import quantities
    from hwmodel.description import MachineSpec

    units = (
        (quantities.Bytes, "B"),
        (quantities.Hertz, "Hz"),
        (quantities.Femtoseconds, "fs"),
        (quantities.BytesPerSecond, "B/s"),
        (quantities.BitsPerSecond, "b/s"),
        (quantities.Femtojoules, "fJ"),
        (quantities.FemtojoulesPerByte, "fJ/B"),
        (quantities.Microwatts, "uW"),
    )
    return dict(_units(MachineSpec, [(list(get_args(kind)[1:]), unit) for kind, unit in units], ""))


def _units(part: Any, quantities: Sequence[tuple[list[Any], str]], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in part.model_fields.items():
        kinds = field.annotation, *get_args(field.annotation)  # a number or a part, or one that may be missing
        marked = [field.metadata, *(list(getattr(kind, "__metadata__", ())) for kind in kinds)]
        yield from ((prefix + name, unit) for marks, unit in quantities if marks in marked)
        for kind in kinds:
            if hasattr(kind, "model_fields"):
                yield from _units(kind, quantities, f"{prefix}{name}.")
