from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layouts.catalog.moe import align_blocks
from workloads.routing import DISTRIBUTIONS, Routing, contiguous, draw, masked, popularity, read_routing, repeated


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@st.composite
def routings(draw_: st.DrawFn) -> Routing:
    experts = draw_(st.integers(1, 12))
    generator = rng(draw_(st.integers(0, 2**31)))
    popular = popularity(draw_(st.sampled_from(DISTRIBUTIONS)), experts, draw_(st.floats(0, 3)), generator)
    return draw(draw_(st.integers(1, 40)), draw_(st.integers(1, experts)), popular, generator)


@given(routings())
def test_every_token_has_distinct_experts_and_weights_that_add_up_to_one(routing: Routing) -> None:
    assert all(len(set(row)) == routing.topk for row in routing.ids.tolist())
    np.testing.assert_allclose(routing.weights.sum(axis=1), 1, rtol=1e-5)
    assert routing.counts.sum() == routing.tokens * routing.topk
    assert (routing.counts <= routing.tokens).all()


@given(routings(), st.integers(1, 9))
def test_contiguous_groups_are_those_of_the_serving_stacks(routing: Routing, block: int) -> None:
    aligned = align_blocks(routing.ids, routing.experts, block)
    groups = contiguous(routing, block)
    assert groups.rows == aligned.rows
    np.testing.assert_array_equal(groups.rows_of(routing), aligned.permuted)
    np.testing.assert_array_equal(routing.counts, aligned.counts)


@given(routings())
def test_rows_sorted_by_expert_keep_the_order_of_the_tokens(routing: Routing) -> None:
    expert = routing.ids.ravel()[routing.order]
    assert (np.diff(expert) >= 0).all()
    for e in range(routing.experts):
        mine = routing.order[routing.first[e] : routing.first[e] + routing.counts[e]]
        assert (routing.ids.ravel()[mine] == e).all()
        assert (np.diff(mine) > 0).all()


@given(routings())
def test_masked_groups_give_every_expert_its_own_room(routing: Routing) -> None:
    groups = masked(routing)
    rows = groups.rows_of(routing)
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_array_equal(rows // routing.tokens, routing.ids.ravel())
    most = int(routing.counts.max())
    assert masked(routing, most).rows == routing.experts * most
    if most > 1:
        with pytest.raises(ValueError, match=rf"tokens; at most {most - 1} have room"):
            masked(routing, most - 1)


def test_choices_follow_the_popularity() -> None:
    """The first choice of a token is expert e with probability p_e: frequencies are within five standard deviations."""
    popular = popularity("zipf", 8, 1.0, rng(1))
    tokens = 20_000
    first = np.bincount(draw(tokens, 3, popular, rng(2)).ids[:, 0], minlength=8) / tokens
    assert (np.abs(first - popular) < 5 * np.sqrt(popular * (1 - popular) / tokens)).all()


def test_zipf_has_the_ratios_of_its_ranks() -> None:
    np.testing.assert_allclose(np.sort(popularity("zipf", 4, 2.0, rng()))[::-1] * 205 / 144, [1, 1 / 4, 1 / 9, 1 / 16])


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.2, 2.5])
def test_a_power_law_has_its_distribution_function(exponent: float) -> None:
    """P(X <= x) = (x^(1-a) - 1) / (100^(1-a) - 1), for a = 1 log x / log 100: Kolmogorov's distance is small."""
    share = np.sort(popularity("power-law", 4096, exponent, rng(3)))
    largest = 100.0 if exponent < 1 else None
    x = share / share[0] if largest is None else share / share[-1] * largest
    power = 1 - exponent
    law = np.log(x) / np.log(100) if power == 0 else (x**power - 1) / (100**power - 1)
    assert np.abs(law - (np.arange(4096) + 0.5) / 4096).max() < 0.03


def test_skew_leaves_more_experts_without_a_token() -> None:
    touched = [
        np.count_nonzero(draw(64, 2, popularity("zipf", 128, s, rng(4)), rng(5)).counts) for s in (0.0, 1.0, 2.0)
    ]
    assert touched[0] > touched[1] > touched[2]


@given(routings(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**31))
def test_a_token_repeats_its_predecessor_or_keeps_its_own(routing: Routing, rho: float, seed: int) -> None:
    lengths = [1, routing.tokens - 1] if routing.tokens > 1 else [1]
    found = repeated(routing, rho, rng(seed), lengths)
    for token in range(routing.tokens):
        own = found.ids[token].tolist() == routing.ids[token].tolist()
        as_before = token > 0 and found.ids[token].tolist() == found.ids[token - 1].tolist()
        assert own or as_before
        if rho == 0 or token in (0, 1):
            assert own
        elif rho == 1:
            assert as_before


@pytest.mark.slow
def test_tokens_repeat_as_often_as_asked() -> None:
    routing = draw(5000, 1, popularity("uniform", 4096, 0.0, rng(6)), rng(7))
    found = repeated(routing, 0.3, rng(8))
    same = float((found.ids[1:] == found.ids[:-1]).mean())
    assert same == pytest.approx(0.3, abs=0.04)


def test_a_recorded_routing_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "routing.csv"
    path.write_text("expert_0,expert_1,weight_0,weight_1\n3,0,0.75,0.25\n1,2,0.5,0.5\n")
    routing = read_routing(path, 4)
    assert routing.ids.tolist() == [[3, 0], [1, 2]]
    assert routing.weights.tolist() == [[0.75, 0.25], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: ''; allowed: expert_0, ..., weight_0, ..."),
        ("a,b\n1,1\n", "line 1: 'a,b'; allowed"),
        ("expert_0,expert_1\n1,2\n", "weight_0, ..., with a weight for each expert, which only an archive"),
        ("expert_0,weight_0\n", "ids are int64 (0, 1); allowed: integers [tokens, topk]"),
        ("expert_0,weight_0\n1\n", "line 2: 1 values; allowed: 2"),
        ("expert_0,weight_0\n-1,1\n", "line 2: expert '-1'; allowed: an integer from 0"),
        ("expert_0,weight_0\n1,x\n", "line 2: weight 'x'; allowed: a number"),
        ("expert_0,weight_0\n1,nan\n", "token 0: weights [nan]; allowed: from 0, finite"),
        ("expert_0,weight_0\n1,1e39\n", "token 0: weights [1e+39]; allowed: from 0, finite"),
        ("expert_0,weight_0\n4,1\n", "token 0: expert 4; allowed: 0 to 3"),
        ("expert_0,expert_1,weight_0,weight_1\n1,1,1,1\n", "token 0: experts [1, 1]; allowed: each once"),
    ],
)
def test_a_file_that_is_no_routing_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "routing.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r".") as error:
        read_routing(path, 4)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@given(routings())
def test_a_routing_in_an_archive_is_the_one_in_a_table(
    tmp_path_factory: pytest.TempPathFactory, given_: Routing
) -> None:
    folder = tmp_path_factory.mktemp("routing")
    np.savez(folder / "routing.npz", experts=given_.ids, weights=given_.weights)
    names = [f"{name}_{i}" for name in ("expert", "weight") for i in range(given_.topk)]
    rows = [[*ids, *weights] for ids, weights in zip(given_.ids.tolist(), given_.weights.tolist(), strict=True)]
    (folder / "routing.csv").write_text("\n".join(",".join(map(str, row)) for row in [names, *rows]))
    found = [read_routing(folder / f"routing.{suffix}", given_.experts) for suffix in ("npz", "csv")]
    assert repr(found[0]) == repr(found[1]) == repr(given_)


def test_choices_without_weights_count_alike(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "routing.npz", experts=np.array([[3, 0], [1, 2], [0, 1]], np.uint16))
    routing = read_routing(tmp_path / "routing.npz", 4)
    assert routing.ids.tolist() == [[3, 0], [1, 2], [0, 1]]
    assert routing.weights.tolist() == [[0.5, 0.5]] * 3


TWO = np.array([[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": TWO}, "no array experts; it has ids, needed are experts"),
        ({"experts": TWO.astype(float)}, "experts: float64; allowed: int8, uint8, int16"),
        ({"experts": np.array([[{}]], object)}, "experts: object; allowed: int8"),
        ({"experts": TWO[0]}, "experts: shape (2,); allowed: 2 axes of 1 .. 8388608 values"),
        ({"experts": TWO[:0]}, "experts: shape (0, 2); allowed: 2 axes of 1 .. 8388608 values"),
        (
            {"experts": np.zeros((2**12, 2**12), np.int8)},
            "experts: shape (4096, 4096); allowed: 2 axes of 1 .. 8388608",
        ),
        (
            {"experts": np.zeros((2**21, 1), np.int8)},
            "routing: tokens is 2097152; allowed: an integer from 1 to 1048576",
        ),
        ({"experts": TWO, "weights": TWO}, "weights: int64; allowed: float16, float32, float64"),
        ({"experts": TWO, "weights": np.ones((2, 1))}, "routing: weights are (2, 1); allowed: as ids, (2, 2)"),
        ({"experts": TWO, "weights": np.full((2, 2), np.nan)}, "token 0: weights [nan, nan]; allowed: from 0, finite"),
        ({"experts": TWO - 1}, "token 0: expert -1; allowed: 0 to 3"),
        ({"experts": TWO + 1}, "token 1: expert 4; allowed: 0 to 3"),
        ({"experts": TWO // 2}, "token 0: experts [0, 0]; allowed: each once"),
    ],
)
def test_an_archive_that_is_no_routing_is_refused_in_one_line(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    path = tmp_path / "routing.npz"
    np.savez_compressed(path, **arrays)
    with pytest.raises(ValueError, match=r".") as error:
        read_routing(path, 4)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for name in ("none.csv", "none.npz"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read \(No such file or directory\)"):
            read_routing(tmp_path / name, 4)
    (tmp_path / "text.npz").write_text("expert_0,weight_0\n1,1\n")
    with pytest.raises(ValueError, match=r"text.npz: no .npz file of experts: File is not a zip file"):
        read_routing(tmp_path / "text.npz", 4)
    path = tmp_path / "bytes.csv"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"byte 0: not UTF-8 text"):
        read_routing(path, 4)


def test_equal_routings_have_one_text_and_others_another() -> None:
    ids, weights = np.array([[0, 1]]), np.array([[0.5, 0.5]])
    assert repr(Routing(4, ids, weights)) == repr(Routing(4, ids.astype(np.int16), weights))
    assert repr(Routing(4, ids, weights)) != repr(Routing(4, ids[:, ::-1], weights))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: popularity("zipff", 4, 1.0, rng()), r"^routing: unknown 'zipff'; known: zipf"),
        (lambda: popularity("zipf", 4, -1.0, rng()), r"^routing: exponent is -1.0; allowed: from 0"),
        (lambda: draw(4, 5, np.ones(4), rng()), r"^routing: topk is 5; allowed: an integer from 1 to 4"),
        (lambda: draw(0, 1, np.ones(4), rng()), r"^routing: tokens is 0; allowed"),
        (lambda: repeated(draw(4, 1, np.ones(4), rng()), 1.5, rng()), r"^routing: rho is 1.5; allowed: a probability"),
        (lambda: repeated(draw(4, 1, np.ones(4), rng()), 0.5, rng(), [3]), r"^routing: lengths add up to 3; allowed"),
        (lambda: Routing(4, np.zeros((2, 1), int), np.zeros((2, 2))), r"^routing: weights are \(2, 2\); allowed"),
    ],
)
def test_what_is_not_allowed_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
