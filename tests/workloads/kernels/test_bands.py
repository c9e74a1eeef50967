from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.kernels import residual_add
from workloads.kernels.rowwise import bands

NPU = Machine(load_machine("npu-hbm3").with_overrides({"cores.count": 3}))

sizes = st.integers(1, 37)


@given(sizes, sizes, st.integers(1, 40), st.integers(1, 9))
def test_bands_cover_every_element_once_and_differ_by_a_row(rows: int, columns: int, tile: int, cores: int) -> None:
    items = bands(rows, columns, tile, cores)
    covered = np.zeros((rows, columns), int)
    for row, count, column in zip(items["row"], items["rows"], items["column"], strict=True):
        covered[row : row + count, column : column + tile] += 1
    assert (covered == 1).all()
    assert np.ptp(items["rows"]) <= 1
    assert items["rows"].min() >= 1
    across = -(-columns // tile)
    assert len(items["row"]) == across * min(rows, max(1, cores // across))


def test_a_sum_wider_than_its_tiles_uses_all_cores_for_one_row() -> None:
    program = residual_add.compile(residual_add.Problem(1, 60, "bf16"), residual_add.Knobs(tile_columns=20), NPU, 0)
    assert len(program.phases[0].tasks) == 3
