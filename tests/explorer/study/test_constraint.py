from __future__ import annotations

import contextlib
import operator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.explore import explore
from explorer.progress import silent
from explorer.storage.folder import space_frame
from explorer.study.constraint import OPERATORS, Constraint, parse_constraint
from explorer.study.study import Study
from explorer.text.tables import account_text

MEANING = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
MEANING |= {"!=": operator.ne, "divides": lambda a, b: a != 0 and b % a == 0}


@given(st.sampled_from(sorted(OPERATORS)), st.lists(st.tuples(st.integers(-4, 9), st.integers(-4, 9)), min_size=1))
def test_a_comparison_of_columns_means_what_it_says(sign: str, pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T
    found = parse_constraint(f"a {sign} b").holds({"a": a, "b": b})
    assert found.tolist() == [MEANING[sign](*pair) for pair in pairs]


def test_values_are_numbers_texts_and_truths() -> None:
    columns = {"x": np.array([1.5, 2]), "kind": np.array(["a b", "c"], object), "on": np.array([True, False])}
    for text, holds in [
        ("x<2", [True, False]),
        ("2 <= x", [False, True]),
        ("kind == 'a b'", [True, False]),
        ('kind != "c"', [True, False]),
        ("on == true", [True, False]),
        ("x > -1.5", [True, True]),
    ]:
        assert parse_constraint(text).holds(columns).tolist() == holds, text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "tile",
        "tile <=",
        "<= tile",
        "tile <= 2 * page",
        "tile <= page <= 3",
        "tile = 3",
        "tile => 3",
        "1 < 2",
        "__import__('os').system('true') == 0",
        "tile.__class__ == 1",
        "tile() > 1",
        "tile[0] > 1",
        "tile > 1; tile > 2",
        "tile > 1e9999",
        "tile > 0x10",
        "tile > 9999999999999999999999",
        "tile > nan",
        "tile == 'a",
        "tile\x00 > 1",
        "tile > ٣",
        "a" * 5000 + " > 1",
        "lambda: 0",
    ],
)
def test_what_is_no_comparison_is_refused_in_one_line(text: str) -> None:
    if text in ("tile > nan", "tile.__class__ == 1"):  # names like any other, which no study has
        with pytest.raises(ValueError, match="unknown column"):
            parse_constraint(text).check({"tile": 1})
        return
    with pytest.raises(ValueError, match=r"allowed|is no name|compares no column") as caught:
        parse_constraint(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


@given(st.text(max_size=40))
@settings(max_examples=20)
def test_any_text_is_a_comparison_or_one_line_of_an_error(text: str) -> None:
    found: object = None
    with contextlib.suppress(ValueError):  # and nothing else
        found = parse_constraint(text)
    assert found is None or isinstance(found, Constraint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tyle <= 64", "constraints.0: 'tyle <= 64': unknown column 'tyle': did you mean 'tile'?"),
        ("layout <= 64", "constraints.0: 'layout <= 64': a text is compared by == or !="),
        ("tile == 'x'", "constraints.0: \"tile == 'x'\": a text is compared by == or !="),
        ("tile >= 32", "baseline: breaks the constraint tile >= 32"),
    ],
)
def test_a_constraint_that_fits_no_column_or_not_the_baseline_is_an_error_of_the_study(
    fake: ModuleType, study: Study, tmp_path: Path, text: str, message: str
) -> None:
    changed = Study.model_validate(study.model_dump() | {"constraints": [text]})
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        explore(changed, tmp_path / "out", 1, fake.EVALUATOR, silent)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("knobs", "constraint", "message"),
    [
        ({"tile": [8, 16]}, "tile <= 16", "baseline: breaks the constraint tile <= 16"),
        ({"tile": [8, 16]}, "tile >= 8", ""),
        ({"tile": [64, 16]}, "tile != 32", "baseline: breaks the constraint tile != 32"),
        ({"machine.hbm.stacks": [8, 16]}, "machine.hbm.stacks >= 8", "baseline: machine.hbm.stacks: missing; the con"),
    ],
)
def test_a_baseline_outside_of_the_choices_is_judged_by_what_it_is(
    fake: ModuleType, study: Study, tmp_path: Path, knobs: dict[str, list[int]], constraint: str, message: str
) -> None:
    fields = {"knobs": knobs, "constraints": [constraint], "baseline": {}}  # the default tile is 32
    outside = Study.model_validate(study.model_dump() | fields)
    if not message:
        assert explore(outside, tmp_path, 1, fake.EVALUATOR, silent).certificate.proven
        return
    with pytest.raises(ValueError, match=message):
        explore(outside, tmp_path, 1, fake.EVALUATOR, silent)


def test_what_breaks_a_constraint_is_counted_with_it_and_never_asked_for(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    fields = {"constraints": ["tile <= 32", "stages != 4"], "budget": {"points": 100, "batch": 4}, "baseline": {}}
    fields |= {"knobs": study.knobs | {"tile": [16, 32, 64]}}
    with pytest.raises(ValueError, match=r"knobs.tile: 64: constraint tile <= 32"):
        explore(Study.model_validate(study.model_dump() | fields), tmp_path, 1, fake.EVALUATOR, silent)
    fields |= {
        "constraints": ["tile divides 32", "stages < tile"],
        "knobs": study.knobs | {"tile": [4, 8], "stages": [2, 4]},
    }
    summary = explore(Study.model_validate(study.model_dump() | fields), tmp_path, 1, fake.EVALUATOR, silent)
    assert summary.invalid == {"constraint stages < tile": 3}  # tile 4 with 4 stages, in three spellings
    assert summary.simulated + summary.pruned == summary.points <= summary.space_points
    assert (space_frame(tmp_path)["reason"] != "").sum() == summary.invalid.total()
    account = summary.account
    assert account.constrained == 3
    assert account.simulated + account.ruled_out + account.left + account.cannot_run == summary.space_points
    space = space_frame(tmp_path)
    assert account.combinations == len(space) + account.same == space.attrs["combinations"]
    assert "3 against a constraint" in account_text(account)


def test_what_a_machine_costs_can_be_constrained(fake: ModuleType, study: Study, tmp_path: Path) -> None:
    from dataclasses import replace

    def costs(query: object) -> dict[str, float]:
        return {"sram_capacity_bytes": 1e6, "hbm_stacks": float(fake.stacks(query))}

    fields = {"knobs": {"machine.hbm.stacks": [1, 2, 4], "tile": [16, 32]}, "baseline": {}}
    fields |= {"constraints": ["hbm_stacks <= 4"], "objectives": ["time_us", "hbm_stacks"]}
    content = {key: value for key, value in study.model_dump().items() if key != "objective"}
    summary = explore(Study.model_validate(content | fields), tmp_path, 1, replace(fake.EVALUATOR, costs=costs), silent)
    assert [row["hbm_stacks"] for row in summary.front] == [4, 1, 2] or len(summary.front) == 3
    assert summary.certificates[1].best == summary.certificates[1].bound == 1
    assert summary.covered == 1
