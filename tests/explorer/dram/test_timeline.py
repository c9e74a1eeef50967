from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.dram.timeline import (
    FIRST_COMMANDS,
    KINDS,
    MAX_COMMANDS,
    Timeline,
    timeline,
    timeline_figure,
    timeline_text,
)
from hwmodel.dram.standards import COMMANDS, HBM3
from hwmodel.dram.trace import DramTrace

T = HBM3.timing(6_400_000_000)
SMALL = replace(HBM3.organisation, channels=2)
Row = tuple[int, ...]


def command(name: str, tick: int, *, channel: int = 0, pc: int = 0, group: int = 0, bank: int = 0, row: int = 0) -> Row:
    if name in ("PREab", "REFab"):
        group, bank, row = -1, -1, -1
    return (tick, channel, pc, group, bank, row, COMMANDS.index(name))


def trace_of(commands: list[Row], bursts: list[Row] = []) -> DramTrace:  # noqa: B006
    width = len(bursts[0]) if bursts else 7
    return DramTrace(
        np.array(commands, np.int64).reshape(-1, 7), np.array(bursts, np.int64).reshape(-1, width), T, SMALL
    )


def spans(table: Timeline, what: str) -> list[tuple[str, int, int]]:
    part = table.spans[table.spans["what"] == what]
    lanes = [table.lanes[lane] for lane in part["lane"]]
    return sorted(zip(lanes, part["from_tick"].tolist(), part["to_tick"].tolist(), strict=True))


def drawn(figure: Any) -> Counter[tuple[str, int, str]]:
    """Every mark of a figure as (kind, tick, name of its lane)."""
    names = figure.layout.yaxis.ticktext
    marks = (trace for trace in figure.data if trace.mode == "markers")
    return Counter(
        (trace.name, int(x), names[int(y)]) for trace in marks for x, y in zip(trace.x, trace.y, strict=True)
    )


COMMAND = st.builds(
    command, st.sampled_from(COMMANDS), st.integers(0, 99), channel=st.integers(0, 1), pc=st.integers(0, 1),
    group=st.integers(0, 3), bank=st.integers(0, 7), row=st.integers(0, 9),
)  # fmt: skip
FEW = settings(max_examples=30)  # a figure takes longer than a table


@FEW
@given(st.lists(COMMAND, max_size=40), st.integers(0, 80), st.integers(1, 60), st.sets(st.integers(0, 3), min_size=1))
def test_every_command_of_the_window_is_one_mark_on_the_lane_of_its_bank(
    commands: list[Row], start: int, length: int, chosen: set[int]
) -> None:
    table = timeline(trace_of(commands), (start, start + length), sorted(chosen))
    expected: Counter[tuple[str, int, str]] = Counter()
    for tick, channel, pc, group, bank, _, number in commands:
        if start <= tick < start + length and 2 * channel + pc in chosen:
            place = f"bank {bank // 4 * 16 + group * 4 + bank % 4}" if bank >= 0 else "all banks"
            kind = next(kind for kind in KINDS if COMMANDS[number].startswith(kind))
            expected[kind, tick, f"ch {channel} pc {pc} {place}"] += 1
    figure = timeline_figure(table)
    assert drawn(figure) == expected if expected else len(figure.data) == 0
    assert f"{expected.total()} command" in timeline_text(table) or "no commands" in timeline_text(table)


@FEW
@given(st.lists(COMMAND, min_size=1, max_size=40), st.integers(0, 120), st.integers(1, 60))
def test_the_bus_shows_exactly_the_ticks_of_data_in_the_window(commands: list[Row], start: int, length: int) -> None:
    table = timeline(trace_of(commands), (start, start + length), [0])
    if not len(table.commands):
        return
    expected: Counter[tuple[str, int]] = Counter()
    for tick, channel, pc, *_, number in commands:
        after = {"RD": T.nCL, "WR": T.nCWL}.get(COMMANDS[number])
        if after is not None and (channel, pc) == (0, 0):
            data = range(tick + after, tick + after + T.nBL)
            expected.update((COMMANDS[number], at) for at in data if start <= at < start + length)
    found: Counter[tuple[str, int]] = Counter()
    for name, what in (("RD", "read data"), ("WR", "write data")):
        for lane, first, last in spans(table, what):
            assert lane == "ch 0 pc 0 data bus"
            found.update((name, at) for at in range(first, last))
    assert found == expected
    assert f"busy {100 * expected.total() / length:.1f} % of the time" in timeline_text(table)


OPEN = [
    command("ACT", 10, bank=1), command("RD", 50, bank=1), command("PRE", 80, bank=1), command("ACT", 130, bank=1),
    command("ACT", 20, bank=2), command("WR", 60, bank=2), command("PREab", 150),
    command("REFpb", 40, bank=3),
]  # fmt: skip


def test_a_row_is_open_from_its_activate_to_its_precharge() -> None:
    table = timeline(trace_of(OPEN), (0, 200), [0])
    one, two, three = (f"ch 0 pc 0 bank {bank}" for bank in (1, 2, 3))
    assert spans(table, "row open") == [(one, 10, 80), (one, 130, 150), (two, 20, 150)]
    assert spans(table, "refreshing") == [(three, 40, 200)]
    assert table.lanes == ("ch 0 pc 0 data bus", "ch 0 pc 0 all banks", one, two, three)


def test_a_row_opened_before_the_window_is_open_from_its_start() -> None:
    table = timeline(trace_of(OPEN), (45, 70), [0])
    assert spans(table, "row open") == [("ch 0 pc 0 bank 1", 45, 70), ("ch 0 pc 0 bank 2", 45, 70)]
    assert spans(timeline(trace_of(OPEN), (75, 90), [0]), "row open") == [("ch 0 pc 0 bank 1", 75, 80)]


def test_a_precharge_of_a_closed_bank_opens_nothing() -> None:
    closed = [command("PRE", 180, bank=1), command("PRE", 190, bank=4)]
    table = timeline(trace_of([*OPEN, *closed]), (100, 200), [0])
    assert spans(table, "row open") == [("ch 0 pc 0 bank 1", 130, 150)]


def test_data_that_begins_before_the_window_or_lasts_beyond_it_is_cut_at_its_ends() -> None:
    first, last = 101 - T.nCL - T.nBL, 119 - T.nCL
    table = timeline(trace_of([command("RD", tick) for tick in (first - 1, first, 100, last, last + 1)]), (100, 120))
    assert spans(table, "read data") == [("ch 0 pc 0 data bus", 100, 101), ("ch 0 pc 0 data bus", 119, 120)]


def test_a_bar_of_the_figure_is_two_ends_and_a_gap() -> None:
    figure = timeline_figure(timeline(trace_of(OPEN), (0, 200), [0]))
    (bar,) = (trace for trace in figure.data if trace.name == "row open")
    assert np.array(bar.x).reshape(-1, 3)[:, :2].tolist() == [[10, 80], [20, 150], [130, 150]]
    assert np.isnan(np.array(bar.y).reshape(-1, 3)[:, 2]).all()


def test_a_mark_tells_tick_time_row_and_column() -> None:
    burst = (30, 50 + T.nCL + T.nBL, 0, 0, 1, 0, 2, 7, 13)
    table = timeline(trace_of([command("ACT", 10, bank=1, row=7), command("RD", 50, bank=1, row=7)], [burst]))
    hovers = {trace.name: list(trace.hovertext) for trace in timeline_figure(table).data if trace.mode == "markers"}
    assert hovers == {
        "ACT": ["ACT tick 10 (3.1 ns)<br>bank group 0, bank 1, row 7"],
        "RD": ["RD tick 50 (15.6 ns)<br>bank group 0, bank 1, row 7, column 13<br>conflict, arrived at tick 30"],
    }


def test_a_burst_of_another_pseudo_channel_tells_nothing_of_a_command() -> None:
    burst = (30, 50 + T.nCL + T.nBL, 0, 1, 1, 0, 2)
    table = timeline(trace_of([command("RD", 50), command("RD", 50, channel=1)], [burst]), pseudo_channels=[0, 1, 2])
    assert table.commands["outcome"].tolist() == ["", ""]


def test_the_first_commands_of_the_busiest_pseudo_channel_are_shown_by_default() -> None:
    many = [command("RD", 7 * i, channel=1, pc=1) for i in range(2 * FIRST_COMMANDS)]
    table = timeline(trace_of([command("RD", 0), *many]))
    assert table.pseudo_channels == ("ch 1 pc 1",)
    assert (table.start_tick, table.end_tick) == (0, 7 * (FIRST_COMMANDS - 1) + 1)
    assert len(table.commands) == FIRST_COMMANDS
    assert timeline(trace_of([command("RD", 5), *many]), (1, 6)).pseudo_channels == ("ch 0 pc 0",)


def test_the_sentence_reads_the_window() -> None:
    text = timeline_text(timeline(trace_of(OPEN), (0, 200), [0]))
    assert text == (
        "Ticks 0 to 199 of ch 0 pc 0 (62.5 ns): 8 commands (3 ACT, 2 PRE, 1 RD, 1 WR, 1 REF) in 3 banks; "
        "the data bus is busy 4.0 % of the time."
    )


def test_a_window_of_more_commands_than_a_figure_holds_is_drawn_from_its_start() -> None:
    pairs = [command(name, 100 + 2 * i, bank=i % 8) for i in range(MAX_COMMANDS) for name in ("RD", "ACT")]
    commands = [command("RD", 90), *pairs]  # so that the limit falls between the two of a tick
    table = timeline(trace_of(commands), (0, 10**6), [0])
    kept = [row for row in commands if row[0] < table.end_tick]
    assert len(table.commands) == len(kept) == MAX_COMMANDS - 1
    assert table.left_out == len(commands) - len(kept)
    assert timeline_text(table).endswith(f"; {table.left_out:,} later commands of the window are not drawn.")
    assert drawn(timeline_figure(table)).total() == len(kept)


def test_nothing_to_draw_is_said() -> None:
    for table in (timeline(trace_of([])), timeline(trace_of(OPEN), (500, 600), [2])):
        assert timeline_text(table).endswith(": no commands.")
        figure = timeline_figure(table)
        assert figure.data == ()
        assert figure.layout.annotations[0].text == "no commands in this window"


@pytest.mark.parametrize(
    ("window", "chosen", "message"),
    [
        ((5, 5), [0], r"window: ticks 5 \.\. 5: not 0 <= first < end$"),
        ((-1, 5), [0], r"window: ticks -1 \.\. 5: not 0 <= first < end$"),
        (None, [4], r"pseudo_channels: 4; allowed: 0 \.\. 3$"),
        (None, [], r"pseudo_channels: 0 of them; allowed: 1 \.\. 8$"),
    ],
)
def test_a_choice_that_the_trace_does_not_have_is_refused(window: Any, chosen: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timeline(trace_of(OPEN), window, chosen)
