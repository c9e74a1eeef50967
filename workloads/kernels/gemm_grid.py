"""How a product c[m, n] = a[m, k] b[n, k]^T is cut: tiles, parts of k, the order of tiles, and the tensors of that.

Below `gemm_tiles`, which writes the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwmodel.program import NONE, Tensor
from layouts.notation import named
from workloads.kernels.base import knob

Array = np.ndarray[Any, Any]
ORDERS = ("row-major", "column-major", "grouped")


def order_knob() -> Any:
    return knob("row-major", "tiles of c by rows, by columns, or in groups of group_m rows by columns", choices=ORDERS)


def group_knob() -> Any:
    return knob(8, "rows of tiles in a group, of the order grouped", least=1)


@dataclass(frozen=True)
class Grid:
    """How a product is cut: `group` rows of tiles are walked column by column before the next ones.

    `batch` products of one shape follow one another; None where the tensors have no axis for that.
    """

    m: int
    n: int
    k: int
    tile_m: int
    tile_n: int
    tile_k: int
    split_k: int = 1
    group: int = 1
    batch: int | None = None

    @property
    def tiles(self) -> tuple[int, int, int]:
        sizes = ((self.m, self.tile_m), (self.n, self.tile_n), (self.k, self.tile_k))
        tiles_m, tiles_n, tiles_k = (-(-size // tile) for size, tile in sizes)
        return tiles_m, tiles_n, tiles_k

    @property
    def parts(self) -> int:
        """Into how many parts k is split: at most one per tile of k, and none empty."""
        tiles = self.tiles[2]
        return -(-tiles // -(-tiles // min(self.split_k, tiles)))

    @staticmethod
    def of(knobs: Any, m: int, n: int, k: int, tile_k: int | None = None, batch: int | None = None) -> Grid:
        """Return the grid that the knobs of a template give; `tile_k` where that is none of them."""
        tile_k = knobs.tile_k if tile_k is None else tile_k
        grid = Grid(m, n, k, knobs.tile_m, knobs.tile_n, tile_k, getattr(knobs, "split_k", 1), 1, batch)
        rows, columns, _ = grid.tiles
        group = {"row-major": 1, "column-major": rows, "grouped": min(knobs.group_m, rows)}[knobs.order]
        return replace(grid, group=group if columns > 1 else 1)

    @property
    def key(self) -> tuple[int, ...]:
        """What is equal for knobs of one meaning."""
        return self.tile_m, self.tile_n, self.tile_k, self.parts, self.group

    def tiles_in_order(self) -> tuple[Array, Array]:
        """Return the rows and columns of the tiles of c in the order in which they are walked."""
        row, column = np.indices(self.tiles[:2]).reshape(2, -1)
        order = np.lexsort((row, column, row // self.group))
        return row[order], column[order]

    def work_items(self) -> dict[str, Array]:
        """Return the columns of the work items, ordered by part, by product of the batch, by tile."""
        tiles_k, parts = self.tiles[2], self.parts
        per_part = -(-tiles_k // parts)
        row, column = self.tiles_in_order()
        part, product, tile = np.indices((parts, self.batch or 1, len(row))).reshape(3, -1)
        items = {
            "part": part,
            "m": row[tile] * self.tile_m,
            "n": column[tile] * self.tile_n,
            "first": part * per_part,
            "tiles": np.minimum(tiles_k - part * per_part, per_part),
        }
        return items if self.batch is None else items | {"batch": product}


def number_of(tensors: Sequence[Tensor], name: str) -> int:
    """Return the number of a tensor by its name; NONE where there is none."""
    return next((number for number, tensor in enumerate(tensors) if tensor.name == name), NONE)


def partial_tensor(grid: Grid, dtype: str) -> Tensor:
    """Return the tensor of the partial sums of split-K."""
    batch = {} if grid.batch is None else {"batch": grid.batch}
    sizes = {"part": grid.parts} | batch | {"m": grid.m, "n": grid.n}
    return Tensor("partial", named(" ".join(sizes), sizes), dtype, NONE)


def scales_tensor() -> Tensor:
    """Return the tensor of the two scales that belong to a and to b as a whole."""
    return Tensor("scales", named("operand", {"operand": 2}), "fp32", NONE, "cache")


def check_tile_k(tile_k: int, unit: int, what: str) -> None:
    """Raise ValueError unless a tile of k is a multiple of `unit` elements."""
    if tile_k % unit:
        raise ValueError(f"tile_k: {tile_k}; allowed: multiples of {unit}, {what}")
