from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.model import ARCHITECTURES, DTYPE_BYTES, MAX_FILE_BYTES, Model, load_model, model_names

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 100,
    "vocab_size": 1000,
    "torch_dtype": "float16",
}
SIZES = [key for key, value in CONFIG.items() if isinstance(value, int)]
# Mistral-7B-v0.1 as its configuration class has it by default, but without the window.
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
    "sliding_window": None,
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "model.json"
    fields = {key: value for key, value in (CONFIG | changes).items() if value is not ...}
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


def weights(model: Model) -> int:
    """The size of a checkpoint, tensor by tensor as its index names them."""
    q, kv = model.heads_q * model.head_dim, model.heads_kv * model.head_dim
    layer = {
        "q_proj": (q, model.hidden),
        "k_proj": (kv, model.hidden),
        "v_proj": (kv, model.hidden),
        "o_proj": (model.hidden, q),
        "gate_proj": (model.intermediate, model.hidden),
        "up_proj": (model.intermediate, model.hidden),
        "down_proj": (model.hidden, model.intermediate),
        "input_layernorm": (model.hidden,),
        "post_attention_layernorm": (model.hidden,),
    }
    if model.qk_norm:
        layer |= {"q_norm": (model.head_dim,), "k_norm": (model.head_dim,)}
    outside: dict[str, tuple[int, ...]] = {
        "embed_tokens": (model.vocabulary, model.hidden),
        "norm": (model.hidden,),
    }
    if not model.tied_embeddings:
        outside["lm_head"] = (model.vocabulary, model.hidden)
    total = sum(math.prod(shape) for _ in range(model.layers) for shape in layer.values())
    return total + sum(math.prod(shape) for shape in outside.values())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
    ],  # the hub's count of both checkpoints
)
def test_parameters_equal_the_published_checkpoint(name: str, parameters: int) -> None:
    assert load_model(name).parameters == parameters


def test_mistral_7b_has_the_published_number_of_parameters(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(MISTRAL), encoding="utf-8")
    assert load_model(path).parameters == 7_241_732_096  # the hub's count of mistralai/Mistral-7B-v0.1


def test_qwen3_8b_agrees_with_its_model_card(data_dir: Path) -> None:
    model = load_model(data_dir / "models" / "Qwen--Qwen3-8B.json")
    assert model.parameters == 8_190_735_360  # the hub's count of the checkpoint; the model card says 8.2B
    assert round((model.parameters - 2 * model.vocabulary * model.hidden) / 1e9, 2) == 6.95  # 6.95B non-embedding
    assert model.qk_norm


def test_a_token_of_llama_3_1_8b_takes_128_kib_of_kv_cache() -> None:
    model = load_model("llama-3.1-8b")
    assert model.kv_bytes_per_token == 128 * 1024
    assert model.state_bytes == 0
    assert model.active_parameters == model.parameters


@given(
    st.builds(
        Model,
        name=st.just("any"),
        layers=st.integers(1, 5),
        hidden=st.integers(1, 99),
        heads_q=st.just(12),
        heads_kv=st.sampled_from([1, 2, 3, 4, 6, 12]),
        head_dim=st.integers(1, 99),
        intermediate=st.integers(1, 99),
        vocabulary=st.integers(1, 99),
        dtype=st.sampled_from(sorted(DTYPE_BYTES)),
        tied_embeddings=st.booleans(),
        qk_norm=st.booleans(),
    )
)
def test_parameters_equal_the_sum_over_the_tensors_of_a_checkpoint(model: Model) -> None:
    assert model.parameters == weights(model)


@pytest.mark.parametrize("size", ["8B", "70B"])
def test_shipped_facts_equal_the_published_configuration(data_dir: Path, size: str) -> None:
    published = load_model(data_dir / "models" / f"meta-llama--Meta-Llama-3.1-{size}.json")
    assert published.name == f"meta-llama--Meta-Llama-3.1-{size}"
    name = f"llama-3.1-{size.lower()}"
    assert replace(published, name=name) == load_model(name)


def test_every_published_configuration_loads_or_is_refused_by_its_architecture(data_dir: Path) -> None:
    for path in sorted((data_dir / "models").glob("*.json")):
        (architecture,) = json.loads(path.read_text(encoding="utf-8"))["architectures"]
        if architecture in ARCHITECTURES:
            assert load_model(path).parameters > 10**9
        else:
            with pytest.raises(ValueError, match=f"architectures is .*{architecture}.*allowed: ") as refusal:
                load_model(path)
            assert str(path) in str(refusal.value)
            assert "\n" not in str(refusal.value)


def test_every_shipped_model_loads_under_its_name() -> None:
    assert model_names() == ("llama-3.1-70b", "llama-3.1-8b", "tiny")
    assert [load_model(name).name for name in model_names()] == list(model_names())


def test_a_directory_gives_its_config_json_and_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "My-Llama"
    folder.mkdir()
    written(folder).rename(folder / "config.json")
    assert load_model(folder) == load_model(str(folder / "config.json"))
    assert load_model(folder).name == "My-Llama"


def test_the_fields_of_a_file_arrive_in_the_model(tmp_path: Path) -> None:
    path = written(tmp_path, tie_word_embeddings=True, some_new_field={"x": 1})
    assert load_model(path) == Model("model", 4, 96, 6, 3, 16, 100, 1000, "fp16", tied_embeddings=True)


def test_head_dim_of_the_file_wins_over_hidden_by_heads(tmp_path: Path) -> None:
    assert load_model(written(tmp_path, head_dim=32)).head_dim == 32
    assert load_model(written(tmp_path, head_dim=None)).head_dim == 16


def test_a_qwen3_file_without_head_dim_means_128(tmp_path: Path) -> None:
    assert load_model(written(tmp_path, architectures=["Qwen3ForCausalLM"])).head_dim == 128


def test_the_newer_name_of_the_dtype_field_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, torch_dtype=..., dtype="bfloat16")
    assert load_model(path).dtype == "bf16"


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_model(path).layers == 4


@pytest.mark.parametrize("key", [*SIZES, "architectures", "torch_dtype"])
def test_a_missing_field_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"model.json: {key} is missing$"):
        load_model(written(tmp_path, **{key: ...}))


@pytest.mark.parametrize("key", [*SIZES, "head_dim"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 32.0, "32", True, [8], 2**24 + 1, math.nan])
def test_a_size_of_the_wrong_type_or_range_is_refused(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"model.json: {key} is .*; allowed: an integer from 1 to 16777216$"):
        load_model(written(tmp_path, **{key: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_key_value_heads": 4},
            r"num_key_value_heads is 4; allowed: a divisor of num_attention_heads \(6\)",
        ),
        ({"hidden_size": 100}, r"hidden_size is 100; allowed: a multiple of num_attention_heads \(6\)"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; allowed: true or false"),
        ({"torch_dtype": "bfloat61"}, "torch_dtype is 'bfloat61'; allowed: bfloat16, float16"),
        ({"torch_dtype": 16}, "torch_dtype is 16; allowed: "),
        (
            {"architectures": "LlamaForCausalLM"},
            "architectures is 'LlamaForCausalLM'; allowed: a list of one of",
        ),
        ({"architectures": []}, r"architectures is \[\]; allowed: a list of one of LlamaForCausalLM"),
        ({"architectures": ["MixtralForCausalLM"]}, "allowed: MistralForCausalLM, "),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "allowed: Qwen3ForCausalLM, "),
        ({"attention_bias": True}, "attention_bias is True; allowed: false"),
        ({"mlp_bias": True}, "mlp_bias is True; allowed: false"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is .*; allowed: null"),
        (
            {"architectures": ["MistralForCausalLM"]},
            r"sliding_window is 4096 \(the default where the file has none\); allowed: null",
        ),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 512},
            "sliding_window is 512; allowed: null",
        ),
        (
            {"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True},
            "use_sliding_window is True; allowed: false",
        ),
    ],
)
def test_what_would_make_the_sizes_wrong_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as refusal:
        load_model(path)
    assert str(refusal.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"hidden_size":\n 12,,}', "line 2, column 5: not JSON"),
        (b"", "line 1, column 1: not JSON"),
        (b"[1, 2]", r"the file is \[1, 2\]; allowed: an object"),
        (b"\xff\xfe{}", "byte 0: not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "holds a number too long"),
        (b" " * (MAX_FILE_BYTES + 1), "larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken.json: {message}") as refusal:
        load_model(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < len(str(path)) + 200


def test_an_unknown_name_offers_the_nearest_first() -> None:
    with pytest.raises(ValueError, match=r"'llama-3.1-80b'; allowed: llama-3.1-(70|8)b, llama-3.1-(70|8)b, tiny, or"):
        load_model("llama-3.1-80b")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.json: no such file$"):
        load_model(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match=r"config.json: no such file$"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "model tiny: layers is 0; allowed: "),
        ({"heads_kv": 3}, r"heads_kv is 3; allowed: a divisor of heads_q \(4\)"),
        ({"dtype": "bf61"}, "dtype is 'bf61'; allowed: bf16, "),
    ],
)
def test_a_model_built_by_hand_is_checked_too(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(load_model("tiny"), **changes)
