"""Quantising the rows of a layer of experts: the pass before a product whose activations are not of 16 bits.

Rows of tokens, and not those of padding, go from 16 bits to the elements and scales of a format, in tiles of rows and
of whole blocks of columns; scales of tensors are given.
"""

from __future__ import annotations

from typing import Any

from hwmodel.assembler import Affine, Region
from layouts.catalog.sizes import round_up
from workloads.kernels.moe_formats import Format
from workloads.kernels.moe_problem import expert_items
from workloads.kernels.quantise import E4M3_LARGEST
from workloads.kernels.rowwise import Items, RowPhase, Span, Step, Strip, Tile
from workloads.routing import Groups, Routing


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
    unit, per_byte = form.unit, form.a.per_byte
    width = round_up(wanted, unit)

    def across(column: str, per: int) -> Any:
        """Return the tile's part of an axis of which one entry stands for `per` columns."""

        def span(t: Tile) -> Span:
            first: Affine = t.phase.column(column)
            return first, (-(-columns // per) - first).clip(width // per)

        return span

    of_elements, of_scales = across("packed", per_byte), across("block", unit)
    inputs = (Strip("x", height, width, lambda t: Region(source, {"row": t.span(), columns_of(t, source): t.across})),)
    outputs = [
        Strip("q", height, width // per_byte, lambda t: Region(elements, {"row": t.span(), "k": of_elements(t)}))
    ]
    names = ["q", "x"]
    if form.a.scales:
        outputs.append(
            Strip("scales", height, width // unit, lambda t: Region(scales, {"row": t.span(), "col": of_scales(t)}))
        )
        names.insert(1, "scales")
    shared = (Strip("scale", 1, 1, lambda t: Region(given, {})),) if form.scaled else ()
    blocks = form.a.scales != ""
    step = Step(
        form.quantise,
        (*names, *(strip.name for strip in shared)),
        lambda t: (t.height, t.width, unit) if blocks else (1, t.height, t.width),
        0.0 if blocks else E4M3_LARGEST,
    )
    kernel = RowPhase(name, height, width, columns, stages, inputs, tuple(outputs), (step,), shared)
    items = dict(expert_items(*tokens, height, width, columns))
    items |= {"packed": items["column"] // per_byte, "block": items["column"] // unit}
    return kernel, items


def columns_of(tile: Tile, tensor: int) -> str:
    """Return the name of the axis of columns of a tensor (row, columns)."""
    return tile.phase.tensors[tensor].layout.axes[-1]
