"""R10: where the elements of a tensor are: a corner of it, the colour a DRAM field, the text the offset in elements.

The cells are those of `layouts.draw`: all axes but the last go down, the last across.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from explorer.views.look import count, titled
from explorer.views.run_data import Memory, Placed, RunData
from explorer.views.view import NotShown, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS = ("stack", "channel", "pseudo_channel")
MOST_ROWS, MOST_COLUMNS = 16, 32


@dataclass(frozen=True)
class Corner:
    """Offsets in elements and the number of the place of each [row, column]; `places`: how many there are."""

    name: str
    layout: str
    down: str
    across: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    offsets: NDArray[np.int64]
    numbers: NDArray[np.int64]
    places: int


def _table(run: RunData) -> Corner:
    """Return the corner of the largest tensor in main memory that has two axes."""
    if run.memory is None:
        raise NotShown("the tensors of the run are not known here")
    tensors = [each for each in run.memory.tensors if len(each.layout.axes) > 1]
    if not tensors or run.memory.address_map is None:
        raise NotShown("the run has no tensor with two axes in a memory of banks")
    return corner(max(tensors, key=_elements), run.memory)


def _elements(tensor: Placed) -> int:
    return prod(tensor.layout.size(name) for name in tensor.layout.axes)


def corner(tensor: Placed, memory: Memory) -> Corner:
    from layouts.draw import by_field
    from layouts.draw.cells import cells

    assert memory.address_map is not None
    table = cells(tensor.layout, None, (MOST_ROWS, MOST_COLUMNS), MOST_COLUMNS)
    offsets = next(iter(table.values.values()))
    numbers = by_field(memory.address_map, FIELDS, tensor.element_bytes, tensor.base_bytes).of(offsets)
    sizes = memory.address_map.sizes
    from layouts import FIELDS as ALL

    places = prod(sizes[ALL.index(name)] for name in FIELDS)
    return Corner(
        tensor.name, tensor.layout.text, table.down, table.across, table.row_labels, table.column_labels,
        np.asarray(offsets), np.asarray(numbers), places,
    )  # fmt: skip


def figure(table: Corner) -> go.Figure:
    drawing = go.Figure()
    drawing.add_heatmap(
        z=table.numbers.tolist(), x=list(table.columns), y=list(table.rows), zmin=0, zmax=max(1, table.places - 1),
        text=table.offsets.astype(str).tolist(), texttemplate="%{text}", textfont={"size": 9}, colorscale="Cividis",
        hovertemplate="(%{y}; %{x})<br>offset %{text}<br>pseudo-channel %{z}<extra></extra>", xgap=1, ygap=1,
        colorbar={"title": {"text": "pseudo-channel"}},
    )  # fmt: skip
    titled(drawing, f"{table.across} [element]", f"{table.down} [element]").update_layout(
        height=150 + 24 * len(table.rows), margin={"l": 110}
    )
    drawing.update_xaxes(type="category")
    return drawing.update_yaxes(type="category", autorange="reversed")


def text(table: Corner) -> str:
    used = len(np.unique(table.numbers))
    along = [len(np.unique(table.numbers[:, :1])), len(np.unique(table.numbers[:1]))]
    return (
        f"{table.name} ({table.layout}): the {table.numbers.size} elements drawn lie in {used} of "
        f"{count(table.places, 'pseudo-channel')}; a line along {table.across} touches {along[1]}, a column along "
        f"{table.down} {along[0]}."
    )


VIEW = View("R10", "layout", "Where a tensor lies", _table, text, figure)
