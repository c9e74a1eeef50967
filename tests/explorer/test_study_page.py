from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from explorer.study_page import (
    Answer,
    Picture,
    Row,
    Table,
    command,
    compared,
    in_parallel,
    least,
    listed,
    markdown,
    most,
    number,
    pictures,
    ties,
    where,
)

ROWS: Sequence[Row] = (
    {"name": "a|b", "size": 1024, "time_us": 3.0},
    {"name": "<b>", "size": 2048, "time_us": 1.0},
    {"name": "c", "size": 4096, "time_us": 1.0004},
)


def answer(jobs: int = 1) -> Answer:
    table = Table("Times", tuple(ROWS), (Picture("size", "time_us", "name"), Picture("name", "time_us", "name")))
    return Answer("study", "Which <one>?", ("3 runs",), ("b is fastest.",), (table,), ("nothing else",))


@pytest.mark.parametrize(
    ("value", "other", "words"),
    [
        (1.0, 1.0, "as much"),
        (0.88, 1.0, "12.0 % less"),
        (1.5, 1.0, "50.0 % more"),
        (3.2, 1.0, "3.20 times as much"),
        (1.0005, 1.0, "as much"),
    ],
)
def test_a_comparison_says_which_way_it_goes(value: float, other: float, words: str) -> None:
    assert compared(value, other) == words


def test_a_comparison_turned_round_says_the_opposite() -> None:
    assert "less" in compared(1.0, 1.3)
    assert "more" in compared(1.3, 1.0)


def test_nothing_is_compared_with_nothing() -> None:
    with pytest.raises(ValueError, match="compared with 0; allowed: a positive number"):
        compared(1.0, 0)


def test_the_least_the_most_and_ties_are_those_of_the_table() -> None:
    assert least(ROWS, "time_us")["name"] == "<b>"
    assert most(ROWS, "time_us")["name"] == "a|b"
    assert [row["name"] for row in ties(ROWS, "time_us")] == ["<b>", "c"]


def test_rows_that_are_not_there_and_words_for_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="no row has"):
        where(ROWS, name="z")
    with pytest.raises(ValueError, match="column name: 'c' is no number"):
        number(ROWS[2], "name")


def test_words_are_listed_as_a_sentence_does() -> None:
    assert [listed(words) for words in (["a"], ["a", "b"], [1, 2, 3])] == ["a", "a and b", "1, 2 and 3"]


def test_a_page_has_the_answer_first_and_every_number_of_the_table() -> None:
    page = markdown(answer())
    assert page.index("b is fastest.") < page.index("3 runs") < page.index("| name |") < page.index("nothing else")
    assert "| a\\|b | 1,024 | 3 |" in page
    assert page.count("\n| ") == 2 + len(ROWS)


def test_pictures_escape_names_and_have_no_script_from_elsewhere() -> None:
    page = pictures(answer())
    assert "Which &lt;one&gt;?" in page
    assert "<b>" not in page.replace("\\u003cb\\u003e", "")
    assert page.count('src="') == page.count('src="plotly.min.js"') == 1
    assert page.count('class="plotly-graph-div"') == 2


def test_the_command_prints_and_writes_the_same_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "study.md"
    command(answer, "About.\n\nMore.", ["--jobs", "1", "--page", str(page), "--figures", str(tmp_path / "figures")])
    assert page.read_text(encoding="utf-8") == capsys.readouterr().out == markdown(answer())
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"plotly.min.js", "study.html"}


def test_answers_come_in_the_order_of_the_items() -> None:
    assert in_parallel(abs, [-3, 2, -1], 1) == [3, 2, 1]
