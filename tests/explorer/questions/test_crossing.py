from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from explorer.questions.crossing import Costs, Crossing, flips

ENDS = st.integers(2, 10**6)


def text(number: Decimal) -> str:
    return f"{number.normalize():f}"


@given(ENDS, st.data())
def test_one_crossing_of_whole_numbers_is_found_to_the_number(last: int, data: st.DataObject) -> None:
    """The design takes 1 us, the other 2 from `begin` on and 0.5 before."""
    begin = data.draw(st.integers(1, last))
    asked: list[Decimal] = []

    def ask(at: Decimal) -> Costs:
        asked.append(at)
        return 1.0, 2.0 if at >= begin else 0.5

    ends = [(Decimal(0), ask(Decimal(0))), (Decimal(last), ask(Decimal(last)))]
    (flip,) = flips(ends, ask, True, text)
    assert (flip.low, flip.high, flip.exact, flip.begins) == (str(begin - 1), str(begin), True, True)
    assert len(asked) <= 2 + last.bit_length() + 1
    found = Crossing("A", "B", "page_size", "0", str(last), (flip,), beats_at_first=False)
    where = f"at page_size {last}" if begin == last else f"from page_size {begin} to {last}"
    assert found.sentence.startswith(f"A beats B {where} (")


@given(st.floats(1.0, 99.0))
def test_a_crossing_of_decimal_numbers_is_found_within_a_thousandth(begin: float) -> None:
    def ask(at: Decimal) -> Costs:
        return 1.0, 2.0 if at >= Decimal(begin) else 0.5

    ends = [(Decimal("0.5"), ask(Decimal("0.5"))), (Decimal(100), ask(Decimal(100)))]
    (flip,) = flips(ends, ask, False, text)
    assert Decimal(flip.low) < Decimal(begin) <= Decimal(flip.high)
    assert Decimal(flip.high) - Decimal(flip.low) <= Decimal("0.001") * Decimal(flip.high)


def test_points_that_cannot_run_leave_the_crossing_between_those_that_can() -> None:
    def ask(at: Decimal) -> Costs | None:
        return ((1.0, 2.0 if at >= 24 else 0.5)) if int(at).bit_count() == 1 else None

    (flip,) = flips([(Decimal(16), (1.0, 0.5)), (Decimal(32), (1.0, 2.0))], ask, True, text)
    assert (flip.low, flip.high, flip.exact) == ("16", "32", False)
    sentence = Crossing("A", "B", "page_size", "16", "32", (flip,), False).sentence
    assert "from page_size somewhere between 16 and 32 to 32" in sentence


def test_every_bracket_of_several_crossings_is_told() -> None:
    """Better from 10 up to 19 and from 30 on."""

    def ask(at: Decimal) -> Costs:
        return 1.0, 2.0 if 10 <= at < 20 or at >= 30 else 0.5

    points = [(Decimal(at), ask(Decimal(at))) for at in (0, 15, 25, 40)]
    found = flips(points, ask, True, text)
    assert [(flip.low, flip.high) for flip in found] == [("9", "10"), ("19", "20"), ("29", "30")]
    crossing = Crossing("A", "B", "x", "0", "40", found, False)
    assert "A beats B from x 10 to 19 and from x 30 to 40 (" in crossing.sentence
    assert crossing.record()["flips"][1]["time_us_at_high"] == [1.0, 0.5]


def test_a_design_that_is_better_at_first_is_so_up_to_the_crossing() -> None:
    def ask(at: Decimal) -> Costs:
        return float(at), 10.0

    found = flips([(Decimal(1), ask(Decimal(1))), (Decimal(64), ask(Decimal(64)))], ask, True, text)
    assert Crossing("A", "B", "x", "1", "64", found, True).sentence.startswith("A beats B from x 1 to 9 (9: 9.000 us")


def test_equal_times_do_not_beat() -> None:
    ends = [(Decimal(1), (1.0, 1.0)), (Decimal(2), (2.0, 2.0))]
    assert flips(ends, lambda at: None, True, text) == ()


def test_a_crossing_at_zero_is_looked_for_in_a_bounded_number_of_questions() -> None:
    asked: list[Decimal] = []

    def ask(at: Decimal) -> Costs:
        asked.append(at)
        return 1.0, 2.0 if at > 0 else 1.0

    (flip,) = flips([(Decimal(0), (1.0, 1.0)), (Decimal("0.5"), (1.0, 2.0))], ask, False, text)
    assert (flip.low, flip.exact) == ("0", True)
    assert Decimal(flip.high) <= Decimal("0.5") / 10**6
    assert len(asked) <= 20


def test_a_doubt_stands_in_the_sentence() -> None:
    assert Crossing("A", "B", "x", "1", "9", (), True, doubt="by windows").sentence.endswith("x 1 to 9; by windows")
