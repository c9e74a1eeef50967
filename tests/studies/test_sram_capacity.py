from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.study_page import number
from workloads.kernels import gemm

SMALL = gemm.Problem(128, 128, 128, "bf16")


@pytest.fixture(scope="module")
def study(load_study: Callable[[str], ModuleType]) -> ModuleType:
    return load_study("sram_capacity")


def test_a_tile_takes_as_long_on_a_larger_scratchpad_and_does_not_fit_a_smaller(study: ModuleType) -> None:
    def measured(*capacities_kib: int) -> object:
        row = study.measure(study.Case(study.GEMM, gemm.Knobs(stages=2), capacities_kib, SMALL))
        return row and {name: value for name, value in row.items() if name != "fits_kib"}

    assert measured(1) is None
    assert measured(512) == measured(4096) == measured(1, 512) is not None


@given(st.lists(st.tuples(st.sampled_from((64, 128, 256)), st.integers(1, 99), st.integers(1, 99)), min_size=1))
def test_the_best_that_fits_only_improves_with_capacity(study: ModuleType, tiles: list[tuple[int, int, int]]) -> None:
    rows = [
        {"kernel": "k", "tile": str(n), "fits_kib": kib, "time_us": float(us), "hbm_bytes": moved}
        for n, (kib, us, moved) in enumerate(tiles)
    ]
    slope = study.envelope(rows)
    for column in ("time_us", "least_hbm_bytes"):
        values = [number(row, column) for row in slope]
        assert values == sorted(values, reverse=True)
        assert number(study.enough(slope, column), column) <= values[-1] * (1 + study.CLOSE)


@pytest.mark.parametrize(("times", "enough"), [((9.0, 5.0, 5.0), 128), ((9.0, 8.0, 2.0), 256), ((5.0, 5.0, 5.0), 64)])
def test_the_answer_names_the_capacity_from_which_the_table_is_flat(
    study: ModuleType, times: tuple[float, ...], enough: int
) -> None:
    rows = [
        {"kernel": "k", "tile": "t", "fits_kib": kib, "time_us": us, "hbm_bytes": int(1e6 * us)}
        for kib, us in zip((64, 128, 256), times, strict=True)
    ]
    words = study.sentences(study.envelope(rows))
    flat = f"k: more than {enough} KiB per core makes it faster by 2 % at most"
    censored = "k: no tile listed needs more than 256 KiB per core, and up to there more pays"
    assert words[0].startswith(censored if enough == 256 else flat)
    assert f"stops falling at {enough} KiB" in words[1]
    assert ("takes as much" in words[0]) == (enough == 64)
