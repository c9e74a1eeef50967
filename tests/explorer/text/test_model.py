from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.text.model import describe_model, list_models, list_text, model_text, positions_text


def positions_of(text: str) -> list[int]:
    found: list[int] = []
    for run in text.split(", "):
        span, _, step = run.partition(" by ")
        first, _, last = span.partition("-")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return found


@given(st.sets(st.integers(0, 60), min_size=1))
def test_positions_as_text_say_the_same_positions(positions: set[int]) -> None:
    assert positions_of(positions_text(sorted(positions))) == sorted(positions)


@pytest.mark.parametrize(
    ("positions", "text"),
    [
        ([3], "3"),
        ([0, 1], "0-1"),
        ([0, 2], "0, 2"),
        ([0, 2, 4, 6], "0-6 by 2"),
        ([0, 1, 2, 4, 5, 6, 8], "0-2, 4-6, 8"),
        ([0, 5, 6, 7], "0, 5-7"),
    ],
)
def test_positions_are_written_as_runs(positions: list[int], text: str) -> None:
    assert positions_text(positions) == text


def test_every_published_configuration_can_be_shown(data_dir: Path) -> None:
    for path in (data_dir / "models").glob("*.json"):
        facts = describe_model(str(path))
        assert json.loads(json.dumps(facts, allow_nan=False))["parameters"] == facts["parameters"]
        text = model_text(facts)
        assert f"{facts['kv_bytes_per_token']:,}" in text
        for group in facts["layers"]:
            assert f"{group['kind']}: layers " in text
            assert f"{group['parameters']:,}" in text


def test_numbers_of_layers_add_up_to_those_of_the_model() -> None:
    for name, facts in list_models().items():
        for total in ("kv_bytes_per_token", "window_bytes", "state_bytes"):
            assert sum(group["count"] * group[total] for group in facts["layers"]) == facts[total], name


def test_the_list_has_a_line_per_model() -> None:
    listed = list_models()
    lines = list_text(listed).splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(listed)
    assert {len(facts["layers"]) for facts in listed.values()} == {1, 2}
