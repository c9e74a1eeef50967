from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from explorer.explore import explore
from explorer.progress import silent
from explorer.study.study import Study, load_study

QUICKSTART = Path(__file__).parents[3] / "studies" / "quickstart.yaml"
GOOD = """
machine: nowhere
kernel: fake
knobs: {tile: [16, 32]}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_quickstart_study_loads() -> None:
    study = load_study(QUICKSTART)
    assert study.name == "quickstart"
    assert study.budget.points >= 60
    assert study.baseline["layout"] in study.knobs["layout"]


def test_a_study_without_a_name_is_named_after_its_file(tmp_path: Path) -> None:
    assert load_study(written(tmp_path, GOOD)).name == "study"


def test_a_trace_goes_by_the_name_the_command_line_takes_and_is_the_same_study(tmp_path: Path) -> None:
    short, full = (
        load_study(written(tmp_path, GOOD + f"batch: {{sequences: 4, trace: {name}}}"))
        for name in ("azure", "azure-2023-conversation")
    )
    assert short.batch is not None
    assert short.batch.trace == "azure-2023-conversation"
    assert short.hash == full.hash


@pytest.mark.parametrize(
    ("name", "path"),
    [("h100-sxm", "h100-sxm"), ("m.yaml", "{}/m.yaml"), ("../m.yml", "{}/../m.yml"), ("/a/m.yaml", "/a/m.yaml")],
)
def test_a_relative_path_starts_at_the_file_of_the_study(tmp_path: Path, name: str, path: str) -> None:
    study = load_study(written(tmp_path, GOOD.replace("nowhere", name) + f"model: {name}"))
    assert (study.machine, study.model) == (name, name)
    there = study.located()
    assert there.machine == there.model == path.format(tmp_path)
    assert study.with_seed(1).located().machine == there.machine


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "sampller: tpe", "sampller: unknown key 'sampller': did you mean 'sampler'? allowed: sampler, "),
        (
            GOOD + "budget: {point: 3}",
            "budget.point: unknown key 'point': did you mean 'points'? allowed: points, batch",
        ),
        (GOOD + "budget: {points: 0}", "budget.points: 0; allowed: at least 1"),
        (GOOD + "budget: {points: 1.5}", "budget.points: 1.5; allowed: an integer"),
        (GOOD + "batch: {sequences: -4, context: 8}", "batch.sequences: -4; allowed: at least 1"),
        (GOOD + "batch: {sequences: 4}", "batch: give one of 'context'"),
        (GOOD + "batch: {sequences: 4, trace: azur}", "batch.trace: 'azur'; allowed: azure, azure-2023-con"),
        (GOOD + "sampler: magic", "sampler: unknown sampler 'magic': allowed: cmaes, gp, "),
        (GOOD + "seed: -1", "seed: -1; allowed: at least 0"),
        (
            GOOD + "budget: {points: 0, batch: -1}",
            "points: 0; allowed: at least 1; budget.batch: -1; allowed: at",
        ),
        (GOOD + "risk:", "risk: null; allowed: mean, worst, or {cvar: 0.9} with a number from 0 to less than 1"),
        (GOOD + "risk: {cvr: 0.9}", "risk: unknown key 'cvr': did you mean 'cvar'?"),
        (GOOD + "objectives: []", "objectives: []; allowed: a list of at least 1"),
        (GOOD + "options: {m: -1}", "options.m: -1; allowed: a whole number from 1, or a name"),
        (GOOD + "options: {m: true}", "options.m: True; allowed: a whole number from 1, or a name"),
        (GOOD + "mix: {}", "mix: {}; allowed: workloads by name"),
        (GOOD + "name: ../up", "name: '../up'; allowed: a text of the form "),
        (GOOD + "fixed: {tile: 16}", "'tile' is searched under 'knobs' and held under 'fixed'"),
        ("machine: m\nkernel: k\nknobs: {}", "knobs: give at least one knob"),
        ("machine: m\nkernel: k\nknobs: {a: []}", "knobs: a: give at least one choice"),
        ("machine: m\nkernel: k\nknobs: {a: [1, b]}", "must be of one type"),
        ("machine: m\nkernel: k\nknobs: {a: [1, 1]}", "a choice stands there twice"),
        ("machine: m\nknobs: {a: [1]}", "kernel: missing"),
        ("machin: m\nkernel: k\nknobs: {a: [1]}", ": machin: unknown key 'machin': did you mean 'machine'?"),
        ("machine: m\nkernel: k\nknob: {a: [1]}", ": knob: unknown key 'knob': did you mean 'knobs'?"),
        ("? [a, b]\n: 1", ":1:3: not YAML: a key must be a single text"),
        (GOOD + 'seed: !!int ""', ":5:7: not YAML: '' is no int"),
        (GOOD + 'seed: !!float ""', ":5:7: not YAML: '' is no float"),
        (GOOD + "seed: !!timestamp x", ":5:7: not YAML: 'x' is no timestamp"),
        (GOOD + "seed: " + "9" * 5000, ":5:7: not YAML: '9999"),
        ("machine: [1", ":1:12: not YAML"),
        ("machine: a\nmachine: b", ":2:1: not YAML: 'machine' stands twice"),
        ("a: &x [1]\nb: *x", ":2:4: not YAML: aliases are not allowed"),
        ("!!python/object:os.system {}", "not YAML: could not determine a constructor"),
        ("[" * 20000, "nested too deeply"),
        ("- 1", "a study is a mapping"),
        ("", "a study is a mapping"),
        ("a: \x00", "not YAML"),
        ("a: " + "x" * (1 << 18), "larger than 262144 bytes"),
    ],
)
def test_a_wrong_study_gets_one_line_with_the_place_the_value_and_what_is_allowed(
    tmp_path: Path, text: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_study(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel": "fakee"}, "unknown kernel 'fakee'"),
        (
            {"knobs": {"tyle": [1]}, "baseline": {}},
            "knobs: unknown knob of fake 'tyle': did you mean 'tile'?",
        ),
        ({"fixed": {"stges": 2}}, "fixed: unknown knob of fake 'stges': did you mean 'stages'?"),
        ({"knobs": {"tile": [-16, 16]}}, "knobs.tile: -16: must be at least 1"),
        ({"knobs": {"tile": [0, 16]}}, "knobs.tile: 0: must be at least 1"),
        ({"knobs": {"tile": ["a"]}}, "knobs.tile: 'a': must be of type int"),
        (
            {"knobs": {"tile": [16, 4096]}},
            "knobs.tile: 4096: tile 4096: needs 32768 B of SRAM, there are 1536 B",
        ),
        (
            {"knobs": {"layout": ["page heed", "page head"]}},
            "knobs.layout: 'page heed': layout 'page heed': unk",
        ),
        ({"knobs": {"machine.hbm.stakcs": [1]}}, "knobs.machine.hbm.stakcs: 1: unknown machine path"),
        ({"baseline": {"tile": 1024}}, "baseline: tile 1024: needs"),
        ({"fixed": {"machine.hbm.stakcs": 1}}, "fixed.machine.hbm.stakcs: 1: unknown machine path"),
        ({"knobs": {"tile": list(range(1, 40000)), "stages": [2, 3]}}, "knobs: 79998 combinations, at most 65536"),
    ],
)
def test_a_study_the_simulator_cannot_run_is_refused_before_anything_is_written(
    fake: ModuleType, study: Study, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    wrong = Study.model_validate(study.model_dump() | fields)
    with pytest.raises(ValueError, match=re.escape(message)):
        explore(wrong, tmp_path / "out", 1, fake.EVALUATOR, silent)
    assert not (tmp_path / "out").exists()


def test_studies_that_differ_in_one_value_have_different_hashes(study: Study) -> None:
    others = [study.with_seed(1), study.model_copy(update={"sampler": "random"})]
    assert len({s.hash for s in [study, *others]}) == 3
    assert study.with_seed(None).hash == study.hash
