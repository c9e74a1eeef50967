from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from explorer import predict as predict_module
from explorer.cli.app import app
from explorer.predict import predict
from explorer.prediction_table import (
    ADDED,
    Answer,
    passed_over,
    predict_rows,
    read_rows,
    rows_of,
    summary,
    with_answers,
    write_parquet,
)
from hwmodel.engine import phase_times
from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from hwmodel.units import FS_PER_SECOND
from workloads.calls import Row, call_of

TABLE = pd.DataFrame(
    {
        "op": ["gemm", "allreduce", "rmsnorm", "gemm", "gemm"],
        "device": "h100_sxm",
        "framework": ["trtllm", "nccl", "vllm", "vllm", "vllm"],
        "kernel": ["a", "b", "c", "d", "e"],
        "dtype": "bfloat16",
        "m": [64, None, None, 64, 1.5],
        "n": [256, None, None, 256, 256],
        "k": [512, None, None, 512, 512],
        "rows": [None, None, 64, None, None],
        "cols": [None, None, 512, None, None],
        "latency_us": [5.0, 10.0, 4.0, 6.0, 5.0],
    }
)


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    return predict_rows(rows_of(TABLE), "h100-sxm")


def test_every_row_has_a_time_above_its_bound_or_a_reason(answers: list[Answer]) -> None:
    assert [answer.reason is None for answer in answers] == [True, False, True, True, False]
    assert "exchange between devices" in str(answers[1].reason)
    assert answers[4].reason == "m is 1.5; allowed: whole numbers"
    for answer in answers:
        if answer.reason is None:
            assert answer.predicted_us is not None
            assert answer.bound_us is not None
            assert answer.predicted_us >= answer.bound_us > 0
            assert answer.knobs
            assert answer.limited_by
            assert answer.simulated == "whole"


def test_rows_of_one_shape_are_one_call(answers: list[Answer]) -> None:
    assert answers[0] is answers[3]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(answers: list[Answer]) -> None:
    assert predict_rows(rows_of(TABLE), "h100-sxm", jobs=2) == answers


def test_by_estimate_nothing_is_simulated_and_every_time_is_near_that_of_windows(
    answers: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something is simulated")

    monkeypatch.setattr(predict_module, "phase_times", refuse)
    found = predict_rows(rows_of(TABLE), "h100-sxm", fidelity="estimate")
    assert [answer.reason for answer in found] == [answer.reason for answer in answers]
    for estimated, simulated in zip(found, answers, strict=True):
        if estimated.reason is None:
            assert estimated.simulated == "nothing"
            assert estimated.bound_us == simulated.bound_us
            assert estimated.predicted_us is not None
            assert simulated.predicted_us is not None
            assert simulated.bound_us is not None
            assert simulated.bound_us <= estimated.predicted_us
            assert 0.6 <= estimated.predicted_us / simulated.predicted_us <= 1.3
            assert estimated.limited_by in ("matrix", "vector", "hbm", "shared cache", "dependencies")


def test_another_fidelity_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown fidelity .bound.: allowed: windows, auto, estimate, exact"):
        predict_rows(rows_of(TABLE), "h100-sxm", fidelity="bound")


def test_by_exact_launches_are_run_whole_that_windows_cut() -> None:
    npu = Machine(load_machine("npu-hbm3"))
    sizes = {"batch": 8, "kv_len": 4097, "heads_q": 64, "heads_kv": 8, "head_dim": 128}
    call = call_of(Row({"op": "decode_attention", "dtype": "bfloat16"}, sizes), npu)
    whole, cut = predict(call, npu, 1, "exact"), predict(call, npu, 1, "windows")
    assert (whole.simulated, cut.simulated) == ("whole", "windows")
    ((_, program),) = call.launches[-1].fitting(npu, 1)
    assert whole.runs[-1].time_fs == sum(phase.fs for phase in phase_times(program, npu))


@pytest.mark.parametrize("op", ["decode_attention", "flash_prefill", "mla_decode"])
def test_schedules_of_what_lies_in_the_cache_are_estimated_without_main_memory(op: str) -> None:
    names = {"op": op, "dtype": "bfloat16", "kv_dtype": "bfloat16"}
    sizes = {"q_len": 64, "kv_len": 1024, "heads_q": 32, "heads_kv": 8, "head_dim": 128}
    sizes |= {"q_len": 1} if op != "flash_prefill" else {}
    h100 = load_machine("h100-sxm")
    slow = Machine(h100.with_overrides({"hbm.pin_rate": "1 Gb/s"}))
    for batch, warm in ((4, True), (128, False)):
        calls = [call_of(Row(names, sizes | {"batch": batch}), machine) for machine in (Machine(h100), slow)]
        fast_fs, slow_fs = (min(variant.estimate_fs for variant in call.launches[1].variants) for call in calls)
        assert (fast_fs == slow_fs) == warm


def test_a_number_of_the_machine_changes_the_time(answers: list[Answer]) -> None:
    (slower,) = predict_rows(rows_of(TABLE[:1]), "h100-sxm", (("launch.latency", "100 us"),))
    assert slower.predicted_us is not None
    assert answers[0].predicted_us is not None
    assert slower.predicted_us == pytest.approx(answers[0].predicted_us + 98.5, rel=1e-3)  # refreshes fall otherwise


def test_a_machine_file_that_changes_between_two_tables_is_read_again(tmp_path: Path) -> None:
    file, times = tmp_path / "chip.yaml", []
    for latency_us in (1, 101):
        text = f"like: h100-sxm\nname: chip\ndescription: a chip\nlaunch: {{latency: {latency_us} us}}\n"
        file.write_text(text + "sources: {launch.latency: assumed}\n")
        (answer,) = predict_rows(rows_of(TABLE[:1]), str(file))
        times.append(answer.predicted_us or 0.0)
    assert times[1] == pytest.approx(times[0] + 100, rel=1e-3)  # refreshes fall otherwise


def test_a_graph_that_is_replayed_finds_in_the_cache_what_fits_it() -> None:
    names = {"op": "decode_attention", "dtype": "bfloat16", "kv_dtype": "bfloat16"}
    sizes = {"kv_len": 1024, "heads_q": 32, "heads_kv": 8, "head_dim": 128}
    small, large = (Row(names, sizes | {"batch": batch}) for batch in (4, 16))  # 16 and 64 MiB of keys and values
    h100 = Machine(load_machine("h100-sxm"))
    for row, warm in ((small, True), (large, False)):
        call = call_of(row, h100)
        cold, found = predict(replace(call, graph=False), h100, 1), predict(call, h100, 1)
        assert (found.runs[1].time_fs < cold.runs[1].time_fs) == warm
        assert (found.runs[1].least_fs < cold.runs[1].least_fs) == warm
        assert found.time_fs >= found.bound_fs


@pytest.mark.parametrize("rows", [1024, 1536])
def test_a_pass_that_runs_again_moves_all_of_its_bytes_where_they_do_not_fit_the_cache(rows: int) -> None:
    """Main memory takes what the time before has left in the cache; what that had loaded is gone."""
    h100 = Machine(load_machine("h100-sxm"))
    call = call_of(Row({"op": "rmsnorm", "dtype": "bfloat16"}, {"rows": rows, "cols": 8192}), h100)
    moved, peak = 2 * rows * 8192 * 2, h100.hbm_peak_bytes_per_second
    assert moved > 25 << 20
    assert predict(call, h100).time_fs > moved / float(peak) * FS_PER_SECOND
    (program,) = [program for _, program in call.launches[0].fitting(h100, 1)]
    alone = sum(phase.fs for phase in phase_times(program, h100))
    assert alone < 0.8 * predict(call, h100).time_fs  # a cold cache takes up stores


@pytest.mark.parametrize(("second", "simulated"), [(1.1, 2), (1.3, 1)])
def test_a_second_schedule_is_simulated_only_where_its_estimate_is_close(
    second: float, simulated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    h100 = Machine(load_machine("h100-sxm"))
    sizes = {"m": 64, "n": 256, "k": 512}
    (launch,) = call_of(Row({"op": "gemm", "dtype": "bfloat16"}, sizes), h100).launches
    best = launch.variants[0]
    variants = tuple(replace(best, estimate_fs=fs, family=str(fs)) for fs in (1.0, second))
    tried = []
    monkeypatch.setattr(predict_module, "phase_times", lambda *args: tried.append(args) or phase_times(*args))
    predict_module.fastest(replace(launch, variants=variants), h100, 2)
    assert len(tried) == simulated


@pytest.mark.slow
def test_of_schedules_that_are_cut_alike_the_better_one_is_taken_by_the_first_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {"op": "moe_grouped_gemm", "dtype": "bfloat16"}
    sizes = {"tokens": 512, "hidden": 2048, "inter": 1024, "experts": 32, "topk": 4}
    h100 = Machine(load_machine("h100-sxm"))
    (launch,) = call_of(Row(names, sizes), h100).launches
    alone = [
        predict_module.Begun(launch, variant, program, h100, True).run().time_fs
        for variant, program in launch.fitting(h100, 2)
    ]
    windows: list[str] = []
    monkeypatch.setattr(
        predict_module, "phase_times", lambda part, on: windows.append(part.hash) or phase_times(part, on)
    )
    found = predict_module.fastest(launch, h100, 2, True)
    assert found.simulated == "windows"
    assert found.time_fs == min(alone) < max(alone)
    assert len(windows) == len(set(windows)) < 8  # four and the first one of the other


def test_the_file_has_all_columns_of_the_table_and_those_of_the_prediction(
    answers: list[Answer], tmp_path: Path
) -> None:
    write_parquet(with_answers(TABLE, answers), tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found.columns.tolist() == [*TABLE.columns, *ADDED]
    assert found["m"].tolist()[:1] == [64]
    assert found["reason"].notna().tolist() == [False, True, False, False, True]
    assert list(tmp_path.iterdir()) == [tmp_path / "out.parquet"]


def test_a_compressed_table_that_breaks_off_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    TABLE.to_csv(path, index=False)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="is no CSV table"):
        read_rows(path)


def test_the_summary_counts_reasons_and_measures_the_error(answers: list[Answer]) -> None:
    lines = list(summary(answers, TABLE))
    assert lines[0] == "3 of 5 rows modelled"
    assert any("exchange between devices" in line for line in lines)
    assert lines[-1].startswith("median error against latency_us")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no CSV table: No columns to parse"),
        ("a,b\n1,2\n", "has no column op; it has a, b"),
        ("op,knobs\ngemm,1\n", "has a column knobs already"),
        ('op,m\n"gemm,1\n', "is no CSV table"),
        ("op,m\ngemm,1,2\n", "is no CSV table: Length of header"),
        ("op,m,m\ngemm,1,2\n", "has the column m twice"),
        ('op,"m",k,m,k,m\ngemm,1,2,1,2,1\n', "has the column m twice"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_rows(path)
    assert len(str(refused.value).splitlines()) == 1


def test_a_column_whose_name_ends_like_that_of_a_doubled_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    pd.DataFrame({"op": ["gemm"], "m": [1], "m.1": [2]}).to_csv(path, index=False)
    assert list(read_rows(path).columns) == ["op", "m", "m.1"]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zip"])
def test_a_table_that_is_not_compressed_as_its_name_says_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"table.csv{ending}"
    path.write_text("op,m\ngemm,1\n")
    with pytest.raises(ValueError, match=rf"^{path}: is no CSV table: "):
        read_rows(path)
    with pytest.raises(IsADirectoryError):
        read_rows(tmp_path)


def test_the_command_writes_the_file_and_says_what_is_in_it(tmp_path: Path) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.parquet"
    TABLE[:2].to_csv(table, index=False)
    done = CliRunner().invoke(app, ["predict", str(table), "--machine", "h100-sxm", "--out", str(out), "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert "1 of 2 rows modelled" in done.output
    assert pd.read_parquet(out)["predicted_us"].notna().tolist() == [True, False]


def test_a_table_of_which_no_row_can_be_modelled_is_written_and_ends_with_status_1(tmp_path: Path) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.parquet"
    command = ["predict", str(table), "--machine", "h100-sxm", "--out", str(out), "--jobs", "1"]
    table.write_text("op,dtype,m\ngem,bf16,64\n")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert done.stdout.startswith("0 of 1 rows modelled\n")
    assert pd.read_parquet(out)["reason"].str.startswith("op 'gem' has no call; known: gemm, ").all()
    table.write_text("op,dtype,m\n")
    assert CliRunner().invoke(app, command).exit_code == 0  # of no rows none has failed


def test_columns_that_are_not_known_are_named_once_and_those_of_measurements_are_known(tmp_path: Path) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.parquet"
    TABLE[1:2].to_csv(table, index=False)
    command = ["predict", str(table), "--machine", "h100-sxm", "--out", str(out), "--jobs", "1"]
    assert CliRunner().invoke(app, command).stderr == ""
    TABLE[1:2].rename(columns={"rows": " Rows", "device": "remark"}).to_csv(table, index=False)
    said = "columns 'remark', ' Rows' (did you mean 'rows'?) are not known and were passed over"
    assert CliRunner().invoke(app, command).stderr == f"rowhit: warning: {table}: {said}\n"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["op", "kvlen"], "column 'kvlen' (did you mean 'kv_len'?) is not known and was passed over"),
        (["op", *"ABCDEFGHIJKLMN"], "'L' and 2 more are not known and were passed over"),
    ],
)
def test_one_line_names_the_first_columns_that_are_not_known(names: list[str], said: str) -> None:
    assert passed_over(pd.DataFrame(columns=names)).endswith(said)


def test_all_columns_of_the_measured_table_are_known(data_file: Callable[[str], Path]) -> None:
    assert passed_over(read_rows(data_file("kernels/measured.csv.gz"))) == ""


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("table.csv", "allowed: a name that ends in .parquet"),
        ("table.parquet", "is the file that is read; allowed: another one"),
    ],
)
def test_the_table_that_is_asked_about_is_not_written_over(tmp_path: Path, name: str, refusal: str) -> None:
    table = tmp_path / name
    TABLE[:1].to_csv(table, index=False)
    before = table.read_bytes()
    done = CliRunner().invoke(app, ["predict", str(table), "--machine", "h100-sxm", "--out", str(table)])
    assert isinstance(done.exception, ValueError)
    assert str(done.exception) == f"--out: {table}: {refusal}"
    assert table.read_bytes() == before
