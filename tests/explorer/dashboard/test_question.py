from __future__ import annotations

from typing import Any

import pytest

from explorer import evaluate
from explorer.dashboard.question import ask, controls, query_of, record
from explorer.questions import fidelity
from explorer.study.study import Study
from explorer.views import speed, versus
from workloads.window_lengths import Lengths

GEMM: dict[str, Any] = {
    "name": "gemm-64",
    "machine": "npu-hbm3",
    "kernel": "gemm",
    "options": {"m": 64, "n": 64, "k": 64},
    "knobs": {"tile_k": [64, 32], "order": ["row-major"], "machine.hbm.stacks": [1, 2]},
    "baseline": {"tile_k": 16},
}
STUDY = Study.model_validate(GEMM)


def test_a_control_has_the_choices_and_the_baseline_in_order_and_starts_there() -> None:
    tile, order, stacks = controls(STUDY)
    assert (tile.name, tile.values, tile.start) == ("tile_k", (16, 32, 64), 0)
    assert (order.values, order.start) == (("row-major",), 0)
    assert stacks.values[stacks.start] == 1


def test_an_answer_is_the_simulation_of_what_was_chosen() -> None:
    query = query_of(STUDY, {"tile_k": 32, "machine.hbm.stacks": 2}, more="stages=2")
    assert dict(query.knobs)["tile_k"] == 32
    assert dict(query.knobs)["stages"] == 2
    assert query.machine_overrides == (("hbm.stacks", "2"),)
    answer = ask(query)
    assert answer.run.metrics == evaluate.simulate(query).metrics
    assert answer.fidelity
    names = {section.name for section in record(query)}
    assert {"time", "units", "in-flight", "latency", "residency", "layout"} == names


def test_of_what_is_long_windows_are_simulated_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "LENGTHS", {"windows": Lengths(1, 1)})
    long = Study.model_validate(GEMM | {"options": {"m": 512, "n": 512, "k": 1024}})
    answer = ask(query_of(long, {"tile_k": 32}))
    assert answer.fidelity.startswith("windows with ")
    whole = ask(query_of(STUDY, {"tile_k": 32}))
    assert speed.VIEW.of(answer.run).text == "Not shown: the run has no utilisation."
    assert versus.RUNS.of((whole.run, answer.run)).text == "Not shown: not both have an account of their time."


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"machine": "/etc/passwd"}, "machine '/etc/passwd': a file"),
        ({"machine": "../../x.yaml"}, "a file"),
        ({"model": "config.json"}, "model 'config.json': a file"),
        ({"routing": "choices.npz"}, "routing 'choices.npz': a file"),
    ],
)
def test_a_study_that_names_files_is_not_asked(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        query_of(Study.model_validate(GEMM | fields), {})


@pytest.mark.parametrize("more", ["nonsense", "no_such_knob=1", "stages=many", "hbm.stacks=[1]"])
def test_settings_that_are_none_are_said_in_one_line(more: str) -> None:
    with pytest.raises(ValueError, match="--set"):
        query_of(STUDY, {}, more=more)
