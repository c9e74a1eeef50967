from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from pages import Page, figures

from explorer.balance import balance_of
from explorer.evaluate import EVALUATOR
from explorer.explore import explore
from explorer.progress import silent
from explorer.report.folder import PAGE, write_comparison, write_report
from explorer.report.page import sections
from explorer.report.points import points_csv, shown_columns
from explorer.search.certificate import Certificate
from explorer.storage.folder import read_details, read_identity, rows_frame
from explorer.study.objective import joules
from explorer.study.study import Study
from explorer.summary import Summary, summarise
from explorer.text.tables import microseconds, percent, result_table, verdict
from explorer.views import energy, history, memory_use
from explorer.views.study_data import read
from explorer.views.view import drawn


def pages_of(folder: Path) -> dict[str, str]:
    """Return the texts of all pages of a report by file name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.html"))}


def test_every_page_opens_offline_and_leads_to_the_others(reported: Path) -> None:
    pages = pages_of(reported)
    assert len(pages) == 5
    for name, text in pages.items():
        page = Page(text)
        assert page.scripts == ["plotly.min.js"], name
        assert {*pages, "report-points.csv"} >= set(page.links) >= set(pages)
        assert all((reported / link).is_file() for link in page.links)
        assert "http" not in "".join(link for link in page.links)
    assert (reported / "plotly.min.js").stat().st_size > 1_000_000


def test_no_figure_has_a_button_that_uploads_it(reported: Path) -> None:
    text = "".join(pages_of(reported).values())
    assert text.count("Plotly.newPlot(") == text.count('"showSendToCloud": false') > 0


def test_the_numbers_of_the_report_are_those_of_the_rows(reported: Path) -> None:
    text = "".join(Page((reported / PAGE).read_text(encoding="utf-8")).text)
    rows = rows_frame(reported)
    done = rows[rows["status"] == "simulated"]
    best = done.iloc[int(done["time_us"].argmin())]
    for row in (done.iloc[0], best):
        assert microseconds(row["time_us"]) in text
        assert percent(row["time_us"] / row["bound_us"] - 1) in text
        assert f"{int(row['hbm_read_bytes']):,} B" in text
    assert f" combinations, the baseline among them: {len(done)} simulated" in text


def test_the_figures_read_back_are_the_rows(reported: Path) -> None:
    drawn = {name: part for text in pages_of(reported).values() for name, part in figures(text).items()}
    done = rows_frame(reported).query("status == 'simulated'")
    history_, traffic = ({trace["name"]: trace for trace in drawn[name]} for name in ("history", "traffic"))
    assert history_["simulated"]["y"] == list(done["time_us"])
    assert history_["best so far"]["y"] == list(done["time_us"].cummin())
    assert traffic["simulated"]["x"] == list(done["hbm_read_bytes"])
    assert sum(drawn["gap"][0]["y"]) == len(done)
    best = done.iloc[int(done["time_us"].argmin())]
    banks = read_details(reported, int(best["point"])).banks["activates"]
    assert drawn["banks-best"][0]["z"] == banks.tolist()
    heat = drawn["pair"][0]
    assert min(value for line in heat["z"] for value in line if value is not None) == done["time_us"].min()


def test_every_number_of_every_point_is_in_the_csv(reported: Path) -> None:
    rows = rows_frame(reported)
    read = pd.read_csv(reported / "report-points.csv")
    assert list(read.columns) == list(rows.columns)
    for name in ("time_us", "bound_us", "hbm_read_bytes", "stalls.load.memory"):
        assert list(read[name].dropna()) == list(rows[name].dropna())


def test_a_text_that_a_spreadsheet_would_compute_is_text_in_the_csv() -> None:
    texts = ["=HYPERLINK(1)", "+1", "-1", "@x", "plain", "\t=1"]
    rows = pd.DataFrame({"layout": texts, "=bad": [-1.5] * 6})
    lines = points_csv(rows).splitlines()
    assert lines[0] == "layout,'=bad"
    assert [line.rpartition(",")[0].strip('"')[0] for line in lines[1:]] == ["'", "'", "'", "'", "p", "'"]
    assert all(line.endswith("-1.5") for line in lines[1:])


def test_several_results_are_compared_in_a_folder_of_their_own(
    fake: ModuleType, study: Study, results: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    explore(study.model_copy(update={"seed": 7, "sampler": "random"}), other, 1, fake.EVALUATOR, silent)
    first = write_comparison([results, other], tmp_path / "report")
    pages = pages_of(first.parent)
    assert {"report.html", "1-report.html", "2-report.html", "1-report-points.html"} <= pages.keys()
    assert not list(results.glob("*.html"))
    assert len(list((tmp_path / "report").glob("*.js"))) == 1
    for text in pages.values():
        assert "<h2>Provenance</h2>" in text
        assert all((first.parent / link).is_file() for link in Page(text).links)
    found = figures(pages["report.html"])
    bars = {trace["name"]: trace["y"] for trace in found["found"]}
    best = [float(rows_frame(folder)["time_us"].min()) for folder in (results, other)]
    assert bars["best found"] == best
    assert f"fake-study (2): {microseconds(best[1])}" in "".join(Page(pages["report.html"]).text)
    assert {trace["name"] for trace in found["convergence"]} == {read(results).sampler, "random"}


def test_a_comparison_writes_over_nothing_but_an_earlier_one(results: Path, tmp_path: Path) -> None:
    def refusal(out: Path) -> str:
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            write_comparison([results, results], out)
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        return str(refused.value)

    assert refusal(results).endswith("is a results folder; choose another one")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / PAGE).write_text("<!DOCTYPE html><title>my own report</title>")
    assert refusal(mine).endswith("mine: not empty and no comparison (it has report.html); choose another folder")
    assert refusal(mine / PAGE).endswith("report.html: is a file; allowed: a folder")
    (mine / PAGE).unlink()
    first = write_comparison([results, results], mine)
    (mine / "notes.txt").write_text("mine")
    text = first.read_text()
    assert write_comparison([results, results], mine).read_text() == text
    assert (mine / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["study.json", "points.parquet", "space.parquet"])
def test_a_results_folder_that_leads_out_of_itself_is_refused(results: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (results / name).rename(outside)
    (results / name).symlink_to(outside)
    with pytest.raises(ValueError, match=f"{name}: a link that leads out of the results folder"):
        write_report(results)


def test_a_folder_without_a_study_says_so_whatever_link_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match=r"no results folder: it has no study\.json$"):
        write_report(tmp_path)


def test_a_report_writes_through_no_link(results: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (results / ".report.html.tmp").symlink_to(outside)
    (results / ".plotly.min.js.tmp").symlink_to(outside)
    with pytest.raises(ValueError, match="leads out of the results folder"):
        write_report(results)
    assert outside.read_text() == "mine"


def test_every_page_says_where_it_comes_from(reported: Path) -> None:
    digest = read_identity(reported).study.hash
    for page in pages_of(reported).values():
        text = "".join(Page(page).text)
        for fact in ("rowhit", "commit", "numpy", "optuna", "search seed", "machine hash", digest, "4 stacks"):
            assert fact in text
        assert "/tmp" not in text


def test_names_that_a_study_chooses_are_escaped(fake: ModuleType, study: Study, tmp_path: Path) -> None:
    names = ["../../x", "</script><script>alert(1)</script> =1+1 <b>&"]
    hostile = study.model_copy(update={"machine": names[0], "baseline_label": names[1]})
    folder = tmp_path / "a" / "b"
    explore(hostile, folder, 1, fake.EVALUATOR, silent)
    for text in pages_of(write_report(folder).parent).values():
        page = Page(text)
        assert page.scripts == ["plotly.min.js"]
        assert text.count("<script") == text.count("</script>") == 1 + text.count("Plotly.newPlot(")
        assert "b" not in page.names
        assert all(name in "".join(page.text) for name in names)
    assert [path.name for path in tmp_path.glob("*")] == ["a"]


def test_a_study_file_that_calls_itself_by_a_path_is_refused(results: Path) -> None:
    record = json.loads((results / "study.json").read_text())
    record["study"]["name"] = "../../x"
    (results / "study.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"study\.json: damaged"):
        write_report(results)


def test_a_folder_without_results_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_details_are_those_of_the_baseline_and_of_the_best(fake: ModuleType, reported: Path) -> None:
    summary = summarise(reported)
    for row in (summary.baseline, summary.best):
        banks = read_details(reported, row["point"]).banks
        assert banks["activates"].tolist() == np.full((4, 16), fake.LAYOUTS[row["layout"]]).tolist()


def test_the_table_and_the_verdict_say_what_the_record_says(reported: Path) -> None:
    summary: Summary = summarise(reported)
    record = summary.record()
    header, baseline, best = result_table(summary).splitlines()
    assert header.split() == ["time", "HBM", "row", "hits", "bound", "within"]
    assert baseline.startswith("baseline (PH, 16)")
    assert microseconds(record["best"]["time_us"]) in best
    assert record["points"] == record["simulated"] + record["pruned"]
    assert record["gap"] == record["best"]["time_us"] / record["bound_us"] - 1
    assert f"{summary.account.ruled_out} ruled out by bounds" in verdict(summary)


def test_the_balance_of_both_runs_stands_on_the_page(fake: ModuleType, reported: Path) -> None:
    text = "".join(Page(pages_of(reported)["report-machine.html"]).text)
    summary = summarise(reported)
    for name, row in (("Baseline", summary.baseline), ("Best found", summary.best)):
        bursts = 16 * fake.LAYOUTS[row["layout"]] * (1 + 2 + 3 + 4)
        assert (
            f"{name}: {bursts:,} bursts over 4 pseudo-channels; the fullest carries 1.60 times the even share." in text
        )


def test_results_without_bursts_per_bank_have_no_balance_and_say_so(results: Path) -> None:
    for path in (results / "details").iterdir():
        with np.load(path) as arrays:
            kept = {name: arrays[name] for name in arrays.files if name != "banks/bursts"}
        np.savez(path, **kept)
    left = "".join(sections(drawn([memory_use.BALANCE], read(results))))
    assert left == '<ul class="left-out"><li>Balance: Not shown: the results have no bursts per bank.</li></ul>'


@pytest.mark.parametrize("machine", ["npu-hbm3", "npu-sram", "npu-sram-local"])
def test_a_study_has_a_report_whatever_the_main_memory_is(machine: str, tmp_path: Path) -> None:
    """HBM, SRAM of all cores, and SRAM of each."""
    sizes, knobs = {"m": 64, "n": 64, "k": 64}, {"tile_k": [32, 64]}
    asked = Study(name="s", machine=machine, kernel="gemm", options=sizes, knobs=knobs)
    explore(asked, tmp_path / "out", 1, EVALUATOR, silent)
    write_report(tmp_path / "out")
    text = "".join(Page(pages_of(tmp_path / "out")["report-machine.html"]).text)
    left = {f"{name}: Not shown: main memory of SRAM has no pseudo-channels and banks." in text for name in BANKED}
    assert left == {machine != "npu-hbm3"}


BANKED = ("Balance", "Banks: baseline", "Banks: best found")


def test_the_balance_draws_the_bursts_and_the_even_share_of_every_run() -> None:
    uneven = balance_of(np.array([[1, 2], [0, 1], [0, 0], [4, 0]]))
    figure = memory_use.balance_figure({"Baseline": uneven, "Best found": balance_of(np.full((4, 2), 1))})
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
def test_the_verdict_promises_no_more_than_is_proven(reported: Path, bound_us: float, best_us: float) -> None:
    summary = replace(summarise(reported), certificate=Certificate(bound_us, best_us))
    promised_us, promised_percent = (
        float(n) for n in re.findall(r"than ([\d.]+) us.*within ([\d.]+) %", verdict(summary))[0]
    )
    assert promised_us <= bound_us
    assert promised_percent >= 100 * (best_us / bound_us - 1)


@CLOSE
def test_the_history_promises_what_the_verdict_promises(reported: Path, bound_us: float, best_us: float) -> None:
    said = history.text(history.history_of(frame([best_us], [1]), bound_us))
    promised = re.findall(r"faster than ([\d.]+ us)\.$", said)[0]
    assert float(promised.removesuffix(" us")) <= bound_us
    summary = replace(summarise(reported), certificate=Certificate(bound_us, best_us))
    assert f"faster than {promised}:" in verdict(summary)


def frame(times: list[float], read: list[int]) -> pd.DataFrame:
    columns = {"point": range(len(times)), "status": "simulated", "time_us": times, "bound_us": 1.0}
    return pd.DataFrame(columns | {"hbm_read_bytes": read})


def test_the_history_draws_every_time_the_best_so_far_and_the_bound() -> None:
    figure = history.figure(history.history_of(frame([9.0, 7.0, 8.0, 3.0], [1, 1, 1, 1]), bound=2.0))
    traces = {trace.name: list(trace.y) for trace in figure.data}
    assert traces["simulated"] == [9, 7, 8, 3]
    assert traces["best so far"] == [9, 7, 7, 3]
    assert traces["baseline"] == [9]
    assert figure.layout.shapes[0].y0 == 2.0
    assert figure.layout.yaxis.title.text == "time [us]"


def with_energy(study: Study, **fields: object) -> Study:
    return Study.model_validate(study.model_dump() | {"machine": "somewhere"} | fields)


def test_energy_stands_in_table_figure_and_points_where_the_machine_gives_it(
    fake: ModuleType, study: Study, tmp_path: Path
) -> None:
    summary = explore(with_energy(study), tmp_path, 1, fake.EVALUATOR, silent)
    header, baseline, best = (re.split(r" {3,}", line.strip()) for line in result_table(summary).splitlines())
    for row, cells in ((summary.baseline, baseline), (summary.best, best)):
        assert cells[1 + header.index("energy")] == joules(row["energy_pj"])
    table = energy.energies({"Baseline": summary.baseline, "Best found": summary.best})
    figure = energy.figure(table)
    for i, row in enumerate((summary.baseline, summary.best)):
        assert sum(bar.y[i] for bar in figure.data) == pytest.approx(row["energy_pj"])
    assert figure.layout.yaxis.title.text == "energy [pJ]"
    assert joules(summary.best["energy_pj"]) in energy.text(table)
    assert energy.VIEW.of(read(tmp_path)).text == energy.text(table)
    assert "energy_pj" in shown_columns(rows_frame(tmp_path), (), ())


def test_a_machine_without_energies_leaves_no_trace_of_them_but_null(reported: Path) -> None:
    pages = pages_of(reported)
    assert "Energy: Not shown: the machine's description has no energies." in "".join(Page(pages[PAGE]).text)
    for text in pages.values():
        assert "energy" not in "".join(Page(text).text).replace("no energies", "")
        assert "pJ" not in text
    record = summarise(reported).record()
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
    table = history.history_of(rows, summary.certificate.bound, summary.objective)
    figure = history.figure(table)
    assert figure.layout.yaxis.title.text == "energy [pJ]"
    assert list(figure.data[1].y) == list(rows["energy_pj"].dropna())
    assert history.VIEW.of(read(tmp_path)).text == history.text(table)
    assert f"takes {joules(summary.best['energy_pj'])}" in history.text(table)
