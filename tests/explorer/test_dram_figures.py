from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer import dram_figures as pictures
from explorer import dram_tables as tables
from explorer.dram_timeline import MAX_COMMANDS, timeline, timeline_figure
from explorer.views import memory_use
from hwmodel.dram.standards import COMMANDS, HBM3
from hwmodel.dram.trace import DramTrace, nearest_rank, queue_steps

T = HBM3.timing(6_400_000_000)  # a tick of 0.3125 ns
SMALL = replace(HBM3.organisation, channels=2)
AFTER = (T.nCL + T.nBL, T.nCWL + T.nBL)
ACT = COMMANDS.index("ACT")
TICK_US = 0.0003125
Row = tuple[int, ...]


def trace_of(bursts: list[Row], commands: list[Row] = []) -> DramTrace:  # noqa: B006
    """Of bursts (arrival, wait, channel, pseudo-channel, bank, is_write, outcome), `wait` until the column command."""
    rows = [(at, at + wait + AFTER[rest[3]], *rest) for at, wait, *rest in bursts]
    return DramTrace(np.array(commands, np.int64).reshape(-1, 7), np.array(rows, np.int64).reshape(-1, 7), T, SMALL)


def large(bursts: int) -> DramTrace:
    """Of as many commands as bursts, all over an HBM3 stack, some to all banks at once."""
    rng, o = np.random.default_rng(0), HBM3.organisation
    number, arrival = rng.integers(0, len(COMMANDS), bursts), rng.integers(0, bursts, bursts)
    whole = np.isin(number, [COMMANDS.index("PREab"), COMMANDS.index("REFab")])
    place = [np.where(whole, -1, rng.integers(0, size, bursts)) for size in (o.bank_groups, 8, o.rows)]
    where = [rng.integers(0, size, bursts) for size in (o.channels, o.pseudo_channels)]
    done = arrival + max(AFTER) + rng.integers(0, 9999, bursts)
    rest = [rng.integers(0, size, bursts) for size in (o.channels, o.pseudo_channels, o.banks, 2, 3)]
    commands = np.stack([rng.integers(0, bursts, bursts), *where, *place, number], axis=1)
    return DramTrace(commands.astype(np.int64), np.stack([arrival, done, *rest], axis=1), T, o)


BURST = st.tuples(
    st.integers(0, 900), st.integers(0, 90), st.integers(0, 1), st.integers(0, 1), st.integers(0, 31),
    st.integers(0, 1), st.integers(0, 2),
)  # fmt: skip
BURSTS = st.lists(BURST, max_size=30)
FEW = settings(max_examples=20)  # a figure takes longer than a table


@FEW
@given(BURSTS, st.sampled_from(["conflicts", "misses", "hits"]))
def test_a_cell_of_the_map_counts_the_bursts_of_its_bank_and_time(bursts: list[Row], counted: str) -> None:
    trace = trace_of(bursts)
    table = tables.bank_heat(trace, counted)
    outcome = {"hits": 0, "misses": 1, "conflicts": 2}[counted]
    chosen = [b for b in bursts if b[6] == outcome]
    expected = Counter(
        (f"ch {c} pc {p} bank {bank}", int((at + wait - trace.span[0]) * TICK_US / table.bin_us + 1e-9))
        for at, wait, c, p, bank, *_ in chosen
    )
    found = {(table.lanes[lane], at): int(table.counts[lane, at]) for lane, at in np.argwhere(table.counts).tolist()}
    assert found == expected
    figure = pictures.bank_heat_figure(table)
    if not chosen:
        assert pictures.bank_heat_text(table) == f"No {counted}."
        assert figure.layout.annotations[0].text == f"no {counted}"
        return
    (heat,) = figure.data
    assert np.array(heat.z).tolist() == table.counts.tolist()
    assert list(heat.y) == list(table.lanes)
    assert heat.x0 == pytest.approx(trace.span[0] * TICK_US + table.bin_us / 2)
    assert len(table.counts[0]) <= tables.MAX_BINS


def test_the_map_of_activates_counts_commands_and_says_where_most_are() -> None:
    commands = [(tick, 0, 1, 2, 3, 5, ACT) for tick in (0, 1, 300)] + [(7, 1, 0, 0, 0, 5, ACT)]
    commands += [(399, 0, 0, 0, 0, 0, COMMANDS.index("RD"))]
    table = tables.bank_heat(trace_of([], commands), "activates")
    assert table.lanes == ("ch 0 pc 1 bank 11", "ch 1 pc 0 bank 0")
    assert [np.flatnonzero(row).tolist() for row in table.counts] == [[0, 150], [3]]
    assert pictures.bank_heat_text(table) == (
        "4 activates in 2 of 128 banks; the busiest bank has 3, 96.00 times the mean of all; "
        "the fullest cell is ch 0 pc 1 bank 11 from 0 us on, 2 in 0.000625 us."
    )


def test_commands_outside_the_time_of_the_bursts_are_on_the_map() -> None:
    trace = trace_of([(50, 0, 0, 0, 0, 0, 0)], [(3, 0, 0, 0, 0, 0, ACT), (500, 0, 0, 0, 0, 0, ACT)])
    table = tables.bank_heat(trace, "activates")
    assert table.counts.sum() == 2
    assert table.start_us == 3 * TICK_US


def test_the_fullest_banks_are_drawn_where_there_are_too_many() -> None:
    trace = large(20_000)
    table = tables.bank_heat(trace, "bursts")
    totals = np.bincount(trace.burst_pseudo_channels * 32 + trace.bursts[:, 4], minlength=1024)
    assert table.counts.shape[0] == tables.MAX_BANKS
    assert sorted(table.counts.sum(axis=1)) == sorted(totals)[-tables.MAX_BANKS :]
    assert pictures.bank_heat_text(table).endswith("; 512 less busy banks are not drawn.")


@FEW
@given(BURSTS)
def test_the_line_of_a_queue_is_its_depth(bursts: list[Row]) -> None:
    trace = trace_of(bursts)
    queues = [tables.queue_depth(trace, is_write) for is_write in (False, True)]
    figure = pictures.queue_figure(queues)
    drawn = {line.name: line for line in figure.data}
    for queue, is_write in zip(queues, (False, True), strict=True):
        of = [b for b in bursts if b[5] == is_write]
        assert (queue.kind in drawn) == bool(of)
        if not of:
            continue
        line = drawn[queue.kind]
        assert line.line.shape == "hv"
        ticks = np.rint(np.array(line.x) / TICK_US).astype(int)
        for tick in {at + shift for at, wait, *_ in of for at in (at, at + wait) for shift in (0, 1)}:
            waiting = sum(arrival <= tick < arrival + wait for arrival, wait, *_ in of)
            assert line.y[int(np.searchsorted(ticks, tick, "right")) - 1] == waiting
        length = trace.span[1] - trace.span[0]
        assert queue.mean == pytest.approx(sum(b[1] for b in of) / length)
        assert f"{queue.mean:,.1f} {queue.kind} wait on average, {queue.highest:,} at most" in pictures.queue_text(
            queues
        )


def test_a_long_queue_is_drawn_by_the_highest_depth_of_each_bin_of_time() -> None:
    trace = large(20_000)
    queue = tables.queue_depth(trace, False)
    ticks, depths = queue_steps(trace, False)
    starts = np.rint(queue.steps["time_us"].to_numpy() / TICK_US).astype(int)
    assert queue.binned
    assert len(starts) <= tables.MAX_STEPS + 1
    for start, end, highest in zip(starts[:-1], starts[1:], queue.steps["depth"], strict=False):
        entering = depths[max(0, np.searchsorted(ticks, start, "right") - 1)]
        assert highest == max(entering, *depths[(ticks > start) & (ticks < end)], 0)
    assert queue.steps["depth"].max() == queue.highest == depths.max()
    assert pictures.queue_text([queue]).endswith("; drawn is the highest of each bin of time.")


def test_a_queue_of_one_pseudo_channel_is_only_its_own() -> None:
    trace = trace_of([(0, 5, 0, 1, 0, 0, 0), (0, 9, 1, 1, 0, 0, 0)])
    alone = tables.queue_depth(trace, False, pseudo_channel=3)
    assert (alone.highest, alone.bursts) == (1, 1)
    assert tables.queue_depth(trace, False).highest == 2


@FEW
@given(BURSTS, st.sampled_from([None, False, True]), st.booleans())
def test_a_bar_counts_the_latencies_between_its_edges(bursts: list[Row], is_write: bool | None, log: bool) -> None:
    trace = trace_of(bursts)
    table = tables.latency(trace, is_write, log)
    figure = pictures.latency_figure(table)
    latencies = [wait + AFTER[write] for _, wait, *_, write, _ in bursts if is_write in (None, bool(write))]
    if not latencies:
        assert pictures.latency_text(table) == f"No {table.kind}."
        assert figure.data == ()
        return
    bars, *marks = figure.data
    centres, widths = np.array(bars.x) / 0.3125, np.array(bars.width) / 0.3125
    for centre, width, height in zip(centres, widths, bars.y, strict=True):
        low, high = centre - width / 2 - 1e-6, centre + width / 2 - 1e-6
        assert height == sum(low <= latency < high for latency in latencies)
    assert sum(bars.y) == len(latencies)
    assert len(bars.y) <= tables.LATENCY_BINS
    ranks = [nearest_rank(np.sort(latencies), part) * 0.3125 for part in (500, 900, 990, 1000)]
    assert [list(mark.x) for mark in marks] == [[rank, rank] for rank in ranks]
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == (("log", "log") if log else (None, None))


def test_the_sentence_of_latencies_gives_mean_and_percentiles() -> None:
    trace = trace_of([(0, wait, 0, 0, 0, 0, 0) for wait in range(100)])
    assert pictures.latency_text(tables.latency(trace, False)) == (
        "From arrival to last data of 100 reads: mean 29.2 ns, p50 29.1 ns, p90 41.6 ns, p99 44.4 ns, max 44.7 ns."
    )


@FEW
@given(BURSTS)
def test_the_bars_of_the_balance_are_the_bytes_of_each_pseudo_channel(bursts: list[Row]) -> None:
    table = tables.balance(trace_of(bursts))
    bars, even = memory_use.balance_figure({"This trace": table}).data
    counts = Counter(2 * b[2] + b[3] for b in bursts)
    assert list(bars.y) == [32 * counts[at] for at in range(4)]
    assert list(even.y) == [8 * len(bursts)] * 2
    assert table.imbalance == (pytest.approx(max(counts.values()) / (len(bursts) / 4)) if bursts else 0)


def test_the_sentence_of_the_balance_names_the_imbalance_and_the_idle() -> None:
    table = tables.balance(trace_of([(0, 0, 0, 0, 0, 0, 0)] * 3 + [(0, 0, 1, 1, 0, 0, 0)]))
    assert memory_use.balance_text({"This trace": table}) == (
        "This trace: 128 bytes over 4 pseudo-channels; the fullest carries 3.00 times the even share, 2 carry nothing."
    )
    by_channel = tables.balance(trace_of([(0, 0, 0, 0, 0, 0, 0)]), "channel")
    assert by_channel.loads == (32, 0)


class Page(HTMLParser):
    """The sources of a page, its headings, and its text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text: list[str] = []
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open = tag
        self.sources += [f"{tag} {value}" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.open != "script":
            self.text.append(data)


def example() -> DramTrace:
    bursts = [(7 * i, 3 * (i % 11), i % 2, i % 3 % 2, i % 32, int(i % 4 == 0), i % 3) for i in range(300)]
    issued = [(at + wait, c, p, bank % 16 // 4, bank // 16 * 4 + bank % 4, 5, 4 if write else 3)
              for at, wait, c, p, bank, write, _ in bursts]  # fmt: skip
    activates = [(max(0, tick - T.nRCDRD), *where, ACT) for tick, *where, _ in issued]
    return trace_of(bursts, issued + activates)


def test_the_page_is_one_file_that_needs_no_other(tmp_path: Path) -> None:
    path = pictures.write_pictures(tmp_path / "new" / "folder", example(), title="<b>&")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.sources == []
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert "<b>&" in page.text


def test_the_sentences_stand_on_the_page_above_their_figures(tmp_path: Path) -> None:
    trace = example()
    path = pictures.write_pictures(tmp_path, trace, window=(0, 500), pseudo_channels=[0, 3], counted=["hits"])
    text = "\n".join(Page(path.read_text(encoding="utf-8")).text)
    assert "Ticks 0 to 499 of ch 0 pc 0, ch 1 pc 1" in text
    for sentence in (
        pictures.bank_heat_text(tables.bank_heat(trace, "hits")),
        pictures.latency_text(tables.latency(trace, True)),
        memory_use.balance_text({"This trace": tables.balance(trace)}),
    ):
        assert sentence in text
    assert "Banks: conflicts" not in text


def test_a_trace_of_nothing_has_a_page_that_says_so(tmp_path: Path) -> None:
    text = "\n".join(Page(pictures.write_pictures(tmp_path, trace_of([])).read_text(encoding="utf-8")).text)
    for sentence in ("no commands.", "No conflicts.", "No activates.", "No bursts.", "This trace: no bytes."):
        assert sentence in text


def test_a_choice_that_cannot_be_drawn_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="counted: unknown 'rows'"):
        pictures.write_pictures(tmp_path / "new", example(), counted=["rows"])
    assert list(tmp_path.iterdir()) == []


def test_the_same_trace_gives_the_same_page() -> None:
    assert pictures.render(example()) == pictures.render(example())


def test_the_pictures_of_a_million_commands_are_bounded_and_quick() -> None:
    pictures.render(example())  # loads the libraries
    trace = large(1_000_000)
    begun = time.process_time()
    page = pictures.render(trace, window=(0, 1_000_000), pseudo_channels=range(8))
    assert time.process_time() - begun < 2
    assert len(page) - len(pictures.render(trace_of([]))) < 4_000_000
    figure = timeline_figure(timeline(trace, (0, 1_000_000), range(8)))
    assert sum(len(part.x) for part in figure.data if part.mode == "markers") <= MAX_COMMANDS
    assert len(figure.data) < 12
    assert len(figure.layout.shapes) == 0


@pytest.mark.browser
def test_the_page_draws_its_numbers_in_a_browser_without_a_network(tmp_path: Path, tab: Any) -> None:
    trace = example()
    tab.open(pictures.write_pictures(tmp_path, trace, log_latency=True).as_uri())
    buttons = set(tab.page.evaluate("[...document.querySelectorAll('[data-title]')].map(b => b.dataset.title)"))
    assert "Zoom in" in buttons
    assert "Share chart..." not in buttons
    names = tab.page.evaluate("[...document.querySelectorAll('.js-plotly-plot')].map(div => div.id)")
    assert names == [
        "commands", "banks-conflicts", "banks-activates", "queues", "latency-reads", "latency-writes", "balance",
    ]  # fmt: skip
    drawn = {name: [[t["type"], t["name"], len(t["x"] or t["y"])] for t in tab.listed(name)] for name in names}
    expected = timeline_figure(timeline(trace)).data
    assert drawn["commands"] == [["scattergl", part.name, len(part.x)] for part in expected]
    assert drawn["balance"] == [["bar", "This trace", 4], ["scatter", "This trace, even", 2]]
    steps = [tables.queue_depth(trace, is_write).steps for is_write in (False, True)]
    assert [size for *_, size in drawn["queues"]] == [len(part) for part in steps]
    assert drawn["banks-conflicts"][0][0] == "heatmap"
    assert tab.wrong == []
    assert all(asked.startswith(("file:", "data:", "blob:")) for asked in tab.asked)
