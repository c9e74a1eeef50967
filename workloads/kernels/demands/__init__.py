"""What kernels demand of a machine in closed form, for many points at once; see `hwmodel.bound_table`.

A template says of which knobs it depends; the others change nothing that it counts. Knobs are in the range that
`kernels.base.check_knobs` asks for; what else makes a point one that cannot run does not matter here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hwmodel.machine import Machine
from workloads.kernels.demands import decode_attention
from workloads.kernels.demands.columns import Columns, Gathered


@dataclass(frozen=True)
class Demands:
    """`of(problem, columns, machine)`: what points demand, by `columns` of the `knobs`, equally long NumPy arrays."""

    knobs: tuple[str, ...]
    of: Callable[[Any, Columns, Machine], Gathered]


DEMANDS: dict[str, Demands] = {"decode-attention": Demands(decode_attention.KNOBS, decode_attention.demands)}

__all__ = ["DEMANDS", "Demands"]
