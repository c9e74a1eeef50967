"""Operands that are stored in fewer bits and with scales, and expanded tile by tile before they are multiplied.

Beside `gemm_tiles`: the templates say with a `Stored` what lies in memory, and get the recipe's `Expansion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.matrix import STORED_BITS
from hwmodel.program import Buffer
from workloads.buffers import operand
from workloads.kernels.gemm_tiles import Expansion, Stream


@dataclass(frozen=True)
class Stored:
    """A format: elements to a byte and their type in memory, elements of k that share a scale, the type of scales."""

    per_byte: int
    dtype: str
    block: int
    scale_dtype: str


@dataclass(frozen=True)
class Tile:
    """The tile of an operand: its rows by `k` elements, `stages` of them as stored and `expanded` of them in `dtype`.

    `numbers` and `axes` are those of the tensors of elements and of scales.
    """

    side: Literal["a", "b"]
    rows: int
    k: int
    stages: int
    expanded: int
    dtype: str
    numbers: tuple[int, int]
    axes: tuple[tuple[str, str], tuple[str, str]]


def expansion(function: str, form: Stored, tile: Tile, scales: Buffer, machine: Machine, sram_layout: str) -> Expansion:
    """Return what makes the operand of a matmul with the vector operation `function`; `scales` come with a tile.

    A type that the matrix unit makes itself of elements and scales has no layout of its own.
    """
    side, elements = (
        tile.side,
        block(f"{tile.side} stored", tile.rows, tile.k // form.per_byte, form.dtype, tile.stages),
    )
    out = block(side, tile.rows, tile.k, tile.dtype, tile.expanded)
    if tile.dtype not in STORED_BITS:
        out = operand(out, machine, sram_layout, side=side, axis_of_k=1)
    return Expansion(
        function,
        out,
        Stream(tile.numbers[0], tile.axes[0], elements, side, unit=form.per_byte),
        Stream(tile.numbers[1], tile.axes[1], scales, side, unit=form.block),
    )
