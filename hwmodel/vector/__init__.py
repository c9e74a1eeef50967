"""The vector unit: the named operations a program may use, with their cost and their values side by side.

An operation's cost is a count of fp32 operations by primitive class (alu, exp, reduce, convert); the classes run on
lanes of their own, so an operation takes as long as its slowest class. The counts are assumed: an addition, a
multiplication, a comparison and a division are one alu each, a logarithm is one exp. Values are computed in fp32 and
rounded where a block of a narrower dtype is written. What the accesses to the operands cost, `hwmodel.operands` works
out from the layouts of the buffers. One file per family of operations.
"""

from __future__ import annotations

from hwmodel.program import Expression, Instruction
from hwmodel.vector import (
    activation,
    attention,
    compressed,
    elementwise,
    indexer,
    kda,
    linear_attention,
    mla,
    norm,
    pointwise,
    quantise,
    rope,
    routing,
    selection,
)
from hwmodel.vector.operation import Operation, Work

FAMILIES = (
    activation,
    attention,
    compressed,
    elementwise,
    indexer,
    kda,
    linear_attention,
    mla,
    norm,
    pointwise,
    quantise,
    rope,
    routing,
    selection,
)
OPERATIONS: dict[str, Operation] = {name: found for family in FAMILIES for name, found in family.OPERATIONS.items()}
assert len(OPERATIONS) == sum(len(family.OPERATIONS) for family in FAMILIES), "two operations have one name"


def costed(instruction: Instruction) -> tuple[Expression, ...]:
    """Return those sizes of an instruction, of either unit, on which its cost depends."""
    return instruction.sizes[: OPERATIONS[instruction.function].costed] if instruction.function else instruction.sizes


__all__ = ["OPERATIONS", "Operation", "Work", "costed"]
