"""Quantised rows of a layer of experts, before a product whose activations are not of 16 bits.

Rows of tokens, and not those of padding, go from 16 bits to the elements and scales of a format, in tiles of rows and
of whole blocks of columns; scales of tensors are given. Quantised once, they are gathered with their scales into the
order of their experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwmodel.assembler import Region
from hwmodel.program import NONE
from layouts.catalog.sizes import round_up
from workloads.kernels.moe_formats import Format
from workloads.kernels.moe_problem import expert_items
from workloads.kernels.quantise import E4M3_LARGEST
from workloads.kernels.rowwise import Items, RowPhase, Step, Strip, Tile
from workloads.routing import Groups, Routing


@dataclass(frozen=True)
class _Part:
    """A tensor of quantised rows (row, `axis`), an entry for `per` columns; those of an item begin at task `column`."""

    name: str
    column: str
    axis: str
    per: int

    def strip(self, tile: tuple[int, int], tensor: int, table: int = NONE, block: str = "") -> Strip:
        """Return the strip of a tile of rows by columns; its rows are gathered by a `table`, if there is one."""

        def region(t: Tile) -> Region:
            first = t.phase.column(self.column)
            across = first, (-(-t.total // self.per) - first).clip(t.columns // self.per)
            if table == NONE:
                return Region(tensor, {"row": t.span(), self.axis: across})
            return Region(tensor, {"row": t.span("sorted"), self.axis: across}, table, 0, "row", "row")

        return Strip(self.name, tile[0], tile[1] // self.per, region, block)


def _parts(form: Format) -> list[_Part]:
    """Return elements and, in a format that has them, scales."""
    scales = [_Part("scales", "block", "col", form.unit)] if form.a.scales else []
    return [_Part("q", "packed", "k", form.a.per_byte), *scales]


def _items(form: Format, tokens: tuple[Routing, Groups], sizes: tuple[int, int, int]) -> Items:
    """Return items that cover rows of tokens in tiles of rows and columns, of columns in all."""
    items = expert_items(*tokens, *sizes)
    return items | {part.column: np.asarray(items["column"]) // part.per for part in _parts(form)}


def quantise_rows(
    name: str,
    form: Format,
    numbers: tuple[int, int, int, int],
    sizes: tuple[int, int, int],
    stages: int,
    tokens: tuple[Routing, Groups],
) -> tuple[RowPhase, Items]:
    """Return the phase that quantises activations of a format, and its items.

    `numbers`: tensors of activations (row, column), of elements (row, k), of scales (row, col) and of the one scale
    that is given; `sizes`: rows and columns of a tile, columns in all.
    """
    source, elements, scales, given = numbers
    height, wanted, columns = sizes
    unit = form.unit
    width = round_up(wanted, unit)
    inputs = (Strip("x", height, width, lambda t: Region(source, {"row": t.span(), columns_of(t, source): t.across})),)
    outputs = [part.strip((height, width), to) for part, to in zip(_parts(form), (elements, scales), strict=False)]
    shared = (Strip("scale", 1, 1, lambda t: Region(given, {})),) if form.scaled else ()
    blocks = form.a.scales != ""
    step = Step(
        form.quantise,
        tuple(strip.name for strip in (*outputs, *inputs, *shared)),
        lambda t: (t.height, t.width, unit) if blocks else (1, t.height, t.width),
        0.0 if blocks else E4M3_LARGEST,
    )
    kernel = RowPhase(name, height, width, columns, stages, inputs, tuple(outputs), (step,), shared)
    return kernel, _items(form, tokens, (height, width, columns))


def permute_quantised(
    form: Format,
    numbers: tuple[tuple[int, int], tuple[int, int], int],
    sizes: tuple[int, int, int],
    stages: int,
    tokens: tuple[Routing, Groups],
) -> tuple[RowPhase, Items]:
    """Return the phase that gathers quantised tokens and their scales into permuted rows, and its items.

    `numbers`: tensors of elements (row, k) and scales (row, col) of tokens, the same permuted, and the table of sorted
    tokens; `sizes` as above.
    """
    sources, targets, table = numbers
    height, wanted, columns = sizes
    width = round_up(wanted, form.unit)
    parts, tile = _parts(form), (height, width)
    inputs = [part.strip(tile, source, table) for part, source in zip(parts, sources, strict=False)]
    outputs = [part.strip(tile, target, block=part.name) for part, target in zip(parts, targets, strict=False)]
    kernel = RowPhase("permute", height, width, columns, stages, tuple(inputs), tuple(outputs))
    return kernel, _items(form, tokens, (height, width, columns))


def columns_of(tile: Tile, tensor: int) -> str:
    """Return the name of the axis of columns of a tensor (row, columns)."""
    return tile.phase.tensors[tensor].layout.axes[-1]
