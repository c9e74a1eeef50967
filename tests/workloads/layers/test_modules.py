"""Which products the names of modules and their patterns mean, and that long lists of them do not take long."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from workloads.layers.modules import MODULES, Modules

LAYERS = 100


@pytest.mark.parametrize(
    ("pattern", "module", "named"),
    [
        ("gate", "model.layers.3.mlp.down_proj", False),
        ("gate", "model.layers.3.mlp.gate_proj", False),
        ("lm_head", "model.layers.3.mlp.down_proj", False),
        ("model.layers.3.mlp", "model.layers.3.mlp.up_proj", True),
        ("model.layers.3.mlp", "model.layers.30.mlp.up_proj", False),
        ("model.layers.*.self_attn", "model.layers.17.self_attn.q_proj", True),
        ("model.language_model.layers.3.mlp", "model.layers.3.mlp.up_proj", True),
        ("model.layers.0.self_attn*", "model.layers.0.self_attn.q_proj", True),
        ("model.layers.0.self_attn*", "model.layers.10.self_attn.q_proj", False),
        ("model.layers.92*", "model.layers.92.mlp.up_proj", True),
        ("*.mlp.shared_experts*", "model.layers.5.mlp.shared_experts.gate_proj", True),
        ("re:.*self_attn.*", "model.layers.17.self_attn.q_proj", True),
        (r"re:.*mlp\.(gate|up)_proj$", "model.layers.17.mlp.up_proj", True),
        (r"re:.*mlp\.(gate|up)_proj$", "model.layers.17.mlp.down_proj", False),
        ("re:(a+)+$", "model.layers.17.mlp.down_proj", False),
        ("language_model", "model.layers.17.mlp.down_proj", False),
        ("re:.*layers.[0-2].mlp.*", "model.layers.2.mlp.up_proj", True),
        ("re:.*layers.[0-2].mlp.*", "model.layers.3.mlp.up_proj", False),
        ("re:.*[a-z]_proj$", "model.layers.3.mlp.up_proj", True),
        (r"re:.*layers\.[^3]\.mlp", "model.layers.3.mlp.up_proj", False),
        (r"re:.*layers\.1\.mlp", "model.layers.1.mlp.up_proj", True),
        (r"re:.*layers\.1\.mlp", "model.layers.11.mlp.up_proj", False),
        (r"re:.*layers\.\d\.mlp", "model.layers.11.mlp.up_proj", False),
        (r"re:.*layers\.\d\d\.mlp", "model.layers.11.mlp.up_proj", True),
        ("*.9*.mlp", "model.layers.92.mlp.up_proj", True),
        ("layers.?.mlp", "model.layers.92.mlp.up_proj", False),
        ("layers.[12].mlp", "model.layers.2.mlp.up_proj", True),
        ("layers.[!12].mlp", "model.layers.2.mlp.up_proj", False),
        ("visual.blocks.0.mlp", "model.layers.0.mlp.up_proj", False),
        ("re:.*layers.[2-0].mlp", "model.layers.2.mlp.up_proj", False),
        ("re:[", "model.layers.17.mlp.down_proj", False),
    ],
)
def test_patterns_name_modules_whole_between_dots(pattern: str, module: str, named: bool) -> None:
    layer, name = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", module).groups()  # type: ignore[union-attr]
    meant = {title for title, names in MODULES.items() if name in names}
    assert meant
    assert bool(meant & Modules([pattern], LAYERS).titles(int(layer))) is named


LETTERS = st.sampled_from(
    ["model", "layers", "0", "1", "10", "*", "?", "[01]", "mlp", "self_attn", "up_proj", "*_proj"]
)
ATOMS = st.sampled_from(
    [
        "model",
        r"layers\.",
        "layers.",
        "0",
        "1",
        r"\.",
        ".",
        ".*",
        r"\d",
        r"\d+",
        "[01]",
        "[^1]",
        "mlp",
        "(mlp|self_attn)",
        "up",
    ]
)


@given(st.lists(LETTERS, min_size=1, max_size=5).map(".".join))
def test_globs_of_names_are_those_of_all_layers_one_by_one(pattern: str) -> None:
    found = Modules([pattern], 20)
    wanted = pattern.split(".")

    def named(module: str) -> bool:
        parts = module.split(".")
        starts = range(len(parts) - len(wanted) + 1)
        return any(all(map(fnmatchcase, parts[start:], wanted)) for start in starts)

    assert [found.titles(layer) for layer in range(20)] == [titles(named, layer) for layer in range(20)]


@given(st.lists(ATOMS, min_size=1, max_size=7).map("".join))
def test_expressions_are_those_of_all_layers_one_by_one(pattern: str) -> None:
    found = Modules(["re:" + pattern], 120)
    assume(not found.unread)
    layers = (0, 1, 9, 10, 11, 19, 99, 100, 119)
    assert [found.titles(layer) for layer in layers] == [titles(re.compile(pattern).match, layer) for layer in layers]


def titles(named: Callable[[str], Any], layer: int) -> set[str]:
    """Return the products of a layer one of whose modules is named."""
    return {title for title, names in MODULES.items() if any(named(f"model.layers.{layer}.{name}") for name in names)}


@pytest.mark.parametrize(
    "pattern",
    ["visual.blocks.{}.attn.qkv", r"re:.*visual.*\.[a-z]{}*", "re:.*[a-z]*{}.*Z", "model.layers.{}.mlp.up_proj"],
)
def test_long_lists_take_seconds_or_are_refused(pattern: str) -> None:
    patterns = [pattern.format(number) for number in range(1 << 14)]
    began = time.process_time()
    with suppress(ValueError):
        Modules(patterns, 1024)
    assert (
        time.process_time() - began < 15
    )  # assumed: ten times what it takes; each pattern with each layer takes half an hour


def test_patterns_to_be_matched_with_each_layer_are_refused_where_they_are_many() -> None:
    with pytest.raises(
        ValueError, match=r"^quantization_config: patterns .* of 1024 layers .* more than 16384 matches"
    ):
        Modules(["re:.*mlp1.*"] * 17, 1024)
    with pytest.raises(ValueError, match=r"^quantization_config: patterns"):
        Modules([f"layers.{number}*" for number in range(17)], 1024)
