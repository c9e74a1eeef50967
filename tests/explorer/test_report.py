from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer import figures
from explorer.balance import balance_of
from explorer.certificate import Certificate
from explorer.explore import explore
from explorer.objective import joules
from explorer.progress import silent
from explorer.report import write_report
from explorer.store import read_details, rows_frame
from explorer.study import Study
from explorer.summary import Summary, summarise
from explorer.tables import microseconds, percent, result_table, verdict


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        for name, value in attrs:
            if name == "src":
                (self.scripts if tag == "script" else self.links).append(value or "")
            if name == "href":
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if not self._in_script:
            self.text.append(data)


@pytest.fixture
def results(fake: ModuleType, study: Study, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    explore(study, folder, 1, fake.EVALUATOR, silent)
    return folder


def test_the_report_opens_offline_from_its_own_folder(results: Path) -> None:
    page = Page(write_report(results).read_text(encoding="utf-8"))
    assert page.scripts == ["plotly.min.js"]
    assert page.links == []
    assert (results / "plotly.min.js").stat().st_size > 1_000_000


def test_no_figure_has_a_button_that_uploads_it(results: Path) -> None:
    text = write_report(results).read_text(encoding="utf-8")
    assert text.count("Plotly.newPlot(") == text.count('"showSendToCloud": false') > 0


def test_the_numbers_of_the_report_are_those_of_the_rows(results: Path) -> None:
    text = "".join(Page(write_report(results).read_text(encoding="utf-8")).text)
    rows = rows_frame(results)
    done = rows[rows["status"] == "simulated"]
    best = done.iloc[int(done["time_us"].argmin())]
    for row in (done.iloc[0], best):
        assert microseconds(row["time_us"]) in text
        assert percent(row["time_us"] / row["bound_us"] - 1) in text
    assert f"{len(rows)} points: {len(done)} simulated" in text
    assert f"{int(best['hbm_read_bytes']):,} bytes" in text


def test_the_report_says_where_it_comes_from(results: Path, study: Study) -> None:
    text = "".join(Page(write_report(results).read_text(encoding="utf-8")).text)
    for fact in (
        "rowhit",
        "commit",
        "numpy",
        "optuna",
        "search seed",
        "machine hash",
        study.hash,
        "4 stacks",
    ):
        assert fact in text
    assert "/tmp" not in text


def test_names_that_a_study_chooses_are_escaped(fake: ModuleType, study: Study, tmp_path: Path) -> None:
    hostile = study.model_copy(update={"machine": "<script>alert(1)</script>", "baseline_label": "<b>&"})
    explore(hostile, tmp_path, 1, fake.EVALUATOR, silent)
    assert Page(write_report(tmp_path).read_text(encoding="utf-8")).scripts == ["plotly.min.js"]


def test_a_folder_without_results_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_details_are_those_of_the_baseline_and_of_the_best(fake: ModuleType, results: Path) -> None:
    summary = summarise(results)
    for row in (summary.baseline, summary.best):
        banks = read_details(results, row["point"]).banks
        assert banks["activates"].tolist() == np.full((4, 16), fake.LAYOUTS[row["layout"]]).tolist()


def test_the_table_and_the_verdict_say_what_the_record_says(results: Path) -> None:
    summary: Summary = summarise(results)
    record = summary.record()
    header, baseline, best = result_table(summary).splitlines()
    assert header.split() == ["time", "HBM", "row", "hits", "bound", "within"]
    assert baseline.startswith("baseline (PH, 16)")
    assert microseconds(record["best"]["time_us"]) in best
    assert record["points"] == record["simulated"] + record["pruned"]
    assert record["gap"] == record["best"]["time_us"] / record["bound_us"] - 1
    assert f"{record['pruned']} pruned by bound" in verdict(summary)


def test_the_balance_of_both_runs_stands_on_the_page(fake: ModuleType, results: Path) -> None:
    text = "".join(Page(write_report(results).read_text(encoding="utf-8")).text)
    summary = summarise(results)
    for name, row in (("Baseline", summary.baseline), ("Best found", summary.best)):
        bursts = 16 * fake.LAYOUTS[row["layout"]] * (1 + 2 + 3 + 4)
        assert (
            f"{name}: {bursts:,} bursts over 4 pseudo-channels; the fullest carries 1.60 times the even share." in text
        )


def test_results_without_bursts_per_bank_have_a_report_without_a_balance(results: Path) -> None:
    for path in (results / "details").iterdir():
        with np.load(path) as arrays:
            kept = {name: arrays[name] for name in arrays.files if name != "banks/bursts"}
        np.savez(path, **kept)
    assert "<h2>Balance</h2>" not in write_report(results).read_text(encoding="utf-8")


def test_the_balance_draws_the_bursts_and_the_even_share_of_every_run() -> None:
    uneven = balance_of(np.array([[1, 2], [0, 1], [0, 0], [4, 0]]))
    figure = figures.balance({"Baseline": uneven, "Best found": balance_of(np.full((4, 2), 1))})
    traces = {trace.name: list(trace.y) for trace in figure.data}
    assert traces == {
        "Baseline": [3, 1, 0, 4],
        "Baseline, even": [2, 2],
        "Best found": [2, 2, 2, 2],
        "Best found, even": [2, 2],
    }
    assert figure.layout.yaxis.title.text == "bursts"
    assert uneven.imbalance == 2
    assert balance_of(np.zeros((4, 2), np.int64)).imbalance == 0


CLOSE = pytest.mark.parametrize(("bound_us", "best_us"), [(49.16, 50.0), (9.9999, 10.04), (4.31558, 4.31559)])


@CLOSE
def test_the_verdict_promises_no_more_than_is_proven(results: Path, bound_us: float, best_us: float) -> None:
    summary = replace(summarise(results), certificate=Certificate(bound_us, best_us))
    promised_us, promised_percent = (
        float(n) for n in re.findall(r"than ([\d.]+) us.*within ([\d.]+) %", verdict(summary))[0]
    )
    assert promised_us <= bound_us
    assert promised_percent >= 100 * (best_us / bound_us - 1)


@CLOSE
def test_the_history_promises_what_the_verdict_promises(results: Path, bound_us: float, best_us: float) -> None:
    said = figures.history_text(frame([best_us], [1]), bound_us)
    promised = re.findall(r"faster than ([\d.]+ us)\.$", said)[0]
    assert float(promised.removesuffix(" us")) <= bound_us
    summary = replace(summarise(results), certificate=Certificate(bound_us, best_us))
    assert f"faster than {promised}:" in verdict(summary)


def frame(times: list[float], read: list[int]) -> pd.DataFrame:
    columns = {"point": range(len(times)), "status": "simulated", "time_us": times, "bound_us": 1.0}
    return pd.DataFrame(columns | {"hbm_read_bytes": read})


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=30))
def test_the_pareto_front_is_the_brute_force_front(points: list[tuple[int, int]]) -> None:
    rows = frame([float(t) for t, _ in points], [b for _, b in points])
    front = figures.pareto(rows, ("time_us", "hbm_read_bytes"))
    found = set(zip(front["time_us"], front["hbm_read_bytes"], strict=True))
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert found == set(points) - beaten
    assert len(front) == len(found)


def test_the_history_draws_every_time_the_best_so_far_and_the_bound() -> None:
    figure = figures.history(frame([9.0, 7.0, 8.0, 3.0], [1, 1, 1, 1]), bound=2.0)
    traces = {trace.name: list(trace.y) for trace in figure.data}
    assert traces["simulated"] == [9, 7, 8, 3]
    assert traces["best so far"] == [9, 7, 7, 3]
    assert traces["baseline"] == [9]
    assert figure.layout.shapes[0].y0 == 2.0
    assert figure.layout.yaxis.title.text == "time [us]"


def test_the_bandwidth_is_drawn_in_gigabytes_per_second() -> None:
    baseline = pd.DataFrame({"time_us": [0.0, 1.0], "bytes_per_second": [1e12, 5e11]})
    figure = figures.bandwidth(baseline, baseline / 2)
    assert list(figure.data[0].y) == [1000.0, 500.0]
    assert figure.layout.yaxis.title.text == "HBM bandwidth [GB/s]"
    assert "1,000.0 GB/s (baseline) and 500.0 GB/s" in figures.bandwidth_text(baseline, baseline / 2)


def test_both_bank_maps_share_one_colour_scale() -> None:
    counts = np.arange(8).reshape(2, 4)
    figure = figures.bank_heat(counts, highest=20)
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 20)
    assert [list(row) for row in figure.data[0].z] == counts.tolist()
    assert figures.bank_text("Best", counts, counts) == (
        "Best: 28 row activates over 8 banks; the busiest has 2.00 times the mean; 28 row conflicts."
    )


def with_energy(study: Study, **fields: object) -> Study:
    return Study.model_validate(study.model_dump() | {"machine": "somewhere"} | fields)


def test_energy_stands_in_table_figure_and_points_where_the_machine_gives_it(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    summary = explore(with_energy(study), tmp_path, 1, fake.EVALUATOR, silent)
    header, baseline, best = (re.split(r" {3,}", line.strip()) for line in result_table(summary).splitlines())
    for row, cells in ((summary.baseline, baseline), (summary.best, best)):
        assert cells[1 + header.index("energy")] == joules(row["energy_pj"])
    figure = figures.energy(summary.baseline, summary.best)
    for i, row in enumerate((summary.baseline, summary.best)):
        assert sum(bar.y[i] for bar in figure.data) == pytest.approx(row["energy_pj"])
    assert figure.layout.yaxis.title.text == "energy [pJ]"
    assert joules(summary.best["energy_pj"]) in figures.energy_text(summary.baseline, summary.best)
    text = "".join(Page(write_report(tmp_path).read_text(encoding="utf-8")).text)
    assert figures.energy_text(summary.baseline, summary.best) in text
    assert "energy_pj" in text


def test_a_machine_without_energies_leaves_no_trace_of_them_but_null(results: Path) -> None:
    text = "".join(Page(write_report(results).read_text(encoding="utf-8")).text)
    assert "energy" not in text.lower()
    record = summarise(results).record()
    for row in (record["best"], record["baseline"]):
        assert row["energy_pj"] is row["energy_bound_pj"] is row["energy_by_component_pj"] is None


def test_the_report_of_a_study_of_energy_shows_and_promises_energy(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    summary = explore(with_energy(study, objective="energy_pj"), tmp_path, 1, fake.EVALUATOR, silent)
    said = verdict(summary)
    assert "can be cheaper than" in said
    assert "faster" not in said
    rows = rows_frame(tmp_path)
    figure = figures.history(rows, summary.certificate.bound, summary.objective)
    assert figure.layout.yaxis.title.text == "energy [pJ]"
    assert list(figure.data[1].y) == list(rows["energy_pj"].dropna())
    text = "".join(Page(write_report(tmp_path).read_text(encoding="utf-8")).text)
    assert figures.history_text(rows, summary.certificate.bound, summary.objective) in text
    assert f"takes {joules(summary.best['energy_pj'])}" in text
