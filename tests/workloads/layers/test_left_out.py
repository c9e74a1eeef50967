from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workloads.layers.left_out import left_out, left_out_notes
from workloads.model import load_model
from workloads.model.attention import SoftmaxAttention
from workloads.model.feed_forward import Dense
from workloads.model.model import Layer, LayerGroup, Model
from workloads.scheduled import Scheduled, decode, of, prefill

ONE = decode((64,))
MLP = Dense(32, 48)
PLAIN = SoftmaxAttention(32, 4, 2, 8, 8)


def model(attention: SoftmaxAttention, feed_forward: Dense = MLP, norms: int = 2) -> Model:
    return Model("one", (LayerGroup(Layer(attention, feed_forward, norms), (0, 1, 2)),), 32, 64, "bf16")


def test_a_model_all_of_which_is_computed_gets_no_note() -> None:
    assert left_out_notes(model(PLAIN), ONE, 1) == ()


@pytest.mark.parametrize(
    ("given", "part", "weights"),
    [
        (model(replace(PLAIN, qk_norm="head")), "norms of single heads of queries and keys", 3 * 2 * 8),
        (model(replace(PLAIN, qk_norm="layer")), "norms over all heads of queries and of keys", 3 * (32 + 16)),
        (model(replace(PLAIN, bias_qkv=True)), "biases of queries, keys and values", 3 * (32 + 16 + 16)),
        (model(replace(PLAIN, bias_out=True)), "biases of what leaves attention", 3 * 32),
        (model(replace(PLAIN, gate=True)), "the multiplication of what attention gives by its gates", 0),
        (model(PLAIN, Dense(32, 48, bias=True)), "biases of the MLP", 3 * (2 * 48 + 32)),
        (model(PLAIN, norms=4), "norms beyond one before attention and one before the feed forward", 3 * 2 * 32),
    ],
)
def test_every_part_that_no_kernel_computes_is_a_note_with_its_layers_and_weights(
    given: Model, part: str, weights: int
) -> None:
    assert left_out(given, ONE) == {part: (3, weights)}
    what = f", {weights:,} weights" if weights else ""
    assert left_out_notes(given, ONE, 1) == (f"not in the sum: {part} (3 layers{what})",)


@pytest.mark.parametrize("more", [{}, {"gate": True}, {"shared_kv": True}, {"gate": True, "shared_kv": True}])
@pytest.mark.parametrize("part", [{"qk_norm": "head"}, {"qk_norm": "layer"}, {"bias_qkv": True}, {"bias_out": True}])
def test_weights_left_out_of_attention_are_those_that_its_parameters_count(
    part: dict[str, Any], more: dict[str, Any]
) -> None:
    bare = replace(PLAIN, heads_kv=1, head_dim_v=4, **more)
    full = replace(bare, **part)
    without, given = (sum(weights for _, weights in left_out(model(a), ONE).values()) for a in (bare, full))
    assert given - without == 3 * (full.parameters - bare.parameters) > 0


def test_norms_of_heads_are_those_of_a_published_qwen3(data_dir: Path) -> None:
    qwen = load_model(data_dir / "models" / "Qwen--Qwen3-32B.json")
    assert left_out_notes(qwen, ONE, 2) == (
        "not in the sum: norms of single heads of queries and keys (64 layers, 16,384 weights)",
        "not in the sum: the exchange between the 2 devices",
    )


@pytest.mark.parametrize(
    ("name", "work", "part"),
    [
        (
            "DeepSeek-V3.2",
            prefill((64,)),
            "the selection in prompts of which the indexer keeps all (up to 2048 tokens)",
        ),
        ("DeepSeek-V4-Flash", of(((64, 64), (400, 100))), "the part of a chunk's first entry that waits in fp32"),
    ],
)
def test_what_prompts_alone_leave_out_is_said_of_them_alone(
    name: str, work: Scheduled, part: str, data_dir: Path
) -> None:
    deepseek = load_model(data_dir / "models" / f"deepseek-ai--{name}.json")
    assert part in left_out(deepseek, work)
    assert part not in left_out(deepseek, ONE)
