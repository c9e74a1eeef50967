from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workloads.model import (
    ARCHITECTURES,
    MAX_FILE_BYTES,
    Dense,
    Layer,
    Model,
    Quantisation,
    SoftmaxAttention,
    grouped,
    load_model,
    model_names,
)
from workloads.model.fields import MAX_LAYERS

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


def test_mistral_7b_has_the_published_number_of_parameters(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(MISTRAL), encoding="utf-8")
    assert load_model(path).parameters == 7_241_732_096  # the hub's count of mistralai/Mistral-7B-v0.1


def test_a_token_of_llama_3_1_8b_takes_128_kib_of_kv_cache() -> None:
    model = load_model("llama-3.1-8b")
    assert model.kv_bytes_per_token == 128 * 1024
    assert model.kv_bytes(1000) == 1000 * 128 * 1024
    assert (model.state_bytes, model.window_bytes) == (0, 0)
    assert model.active_parameters == model.parameters


SHIPPED = {
    "llama-3.1-8b": "meta-llama--Meta-Llama-3.1-8B",
    "llama-3.1-70b": "meta-llama--Meta-Llama-3.1-70B",
    "deepseek-v3": "deepseek-ai--DeepSeek-V3",
    "gpt-oss-20b": "openai--gpt-oss-20b",
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_facts_equal_the_published_configuration(data_dir: Path, name: str) -> None:
    published, shipped = load_model(data_dir / "models" / f"{SHIPPED[name]}.json"), load_model(name)
    assert published.name == SHIPPED[name]
    assert replace(published, name=name) == shipped
    assert (shipped.notes, shipped.warnings) == (published.notes, ())


def test_every_shipped_model_loads_under_its_name() -> None:
    assert set(model_names()) == {*SHIPPED, "tiny"}
    assert [load_model(name).name for name in model_names()] == list(model_names())


def test_a_directory_gives_its_config_json_and_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "My-Llama"
    folder.mkdir()
    written(folder).rename(folder / "config.json")
    assert load_model(folder) == load_model(str(folder / "config.json"))
    assert load_model(folder).name == "My-Llama"


def test_the_fields_of_a_file_arrive_in_the_model(tmp_path: Path) -> None:
    layer = Layer(SoftmaxAttention(96, 6, 3, 16, 16), Dense(96, 100))
    expected = Model("model", grouped([layer] * 4), 96, 1000, "fp16", tied_embeddings=True)
    assert load_model(written(tmp_path, tie_word_embeddings=True)) == expected
    assert (expected.heads_q, expected.heads_kv, expected.head_dim, expected.intermediate) == (6, 3, 16, 100)


def test_a_field_that_is_not_known_is_named_and_nothing_else_changes(tmp_path: Path) -> None:
    plain = load_model(written(tmp_path))
    model = load_model(written(tmp_path, some_new_field={"x": 1}, rope_theta=1e6, hidden_dropuot=None))
    assert plain.warnings == ()
    expected = ("hidden_dropuot is not known and was passed over", "some_new_field is not known and was passed over")
    assert model.warnings == expected
    assert model == plain


def test_a_field_whose_name_breaks_lines_is_named_in_one(tmp_path: Path) -> None:
    (warning,) = load_model(written(tmp_path, **{"evil\nname\x1b[2J" + "x" * 200: 1})).warnings
    assert warning.isprintable()
    assert len(warning) < 130


def test_many_unknown_fields_get_one_warning(tmp_path: Path) -> None:
    (warning,) = load_model(written(tmp_path, **{f"field{n:04}": n for n in range(5000)})).warnings
    assert warning == "5000 fields are not known and were passed over: field0000, field0001, field0002, field0003, ..."


def test_the_text_model_of_a_wrapper_is_read_and_the_encoders_are_noted(tmp_path: Path) -> None:
    inner = {key: value for key, value in CONFIG.items() if key not in ("architectures", "torch_dtype")}
    path = tmp_path / "model.json"
    wrapper = {"architectures": CONFIG["architectures"], "dtype": "float16", "tie_word_embeddings": True}
    more = {"text_config": inner | {"odd": 1}, "vision_config": {"hidden_size": 7}, "strange": 2, "image_token_id": 3}
    path.write_text(json.dumps(wrapper | more), encoding="utf-8")
    model = load_model(path)
    assert model == load_model(written(tmp_path, tie_word_embeddings=True))
    path.write_text(json.dumps(wrapper | more), encoding="utf-8")
    assert load_model(path).notes == ("vision_config: the text model only is counted",)
    odd = ("text_config.odd is not known and was passed over", "strange is not known and was passed over")
    assert load_model(path).warnings == odd


def test_errors_name_a_field_of_the_text_model_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    for value, message in (({"hidden_size": 0}, "text_config.hidden_size is 0; "), ([1], r"text_config is \[1\]; ")):
        path.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "text_config": value}), encoding="utf-8")
        with pytest.raises(ValueError, match=f"model.json: {message}allowed: "):
            load_model(path)


def test_what_is_stored_in_fewer_bits_is_read(tmp_path: Path) -> None:
    fp8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 64], "activation_scheme": "dynamic"}
    model = load_model(written(tmp_path, quantization_config=fp8))
    assert model.quantisation == Quantisation("fp8_e4m3", (128, 64), "fp32")
    assert (model.dtype, model.kv_dtype_bytes) == ("fp16", 2)
    model = load_model(written(tmp_path, quantization_config=fp8 | {"scale_fmt": "ue8m0", "bits": 8}, torch_dtype=...))
    assert model.quantisation == Quantisation("fp8_e4m3", (128, 64), "e8m0")
    assert model.dtype == "bf16"
    assert model.notes == ("the file has no dtype: bf16 is supposed beside the quantised weights",)
    assert model.warnings == ("quantization_config.bits is not known and was passed over",)
    model = load_model(written(tmp_path, quantization_config={"quant_method": "mxfp4"}))
    assert model.quantisation == Quantisation("fp4_e2m1", (32,), "e8m0")
    excluding = {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["lm_head"]}
    model = load_model(written(tmp_path, quantization_config=excluding))
    assert model.quantisation == Quantisation("int4", (128,), "16-bit", excluded=("lm_head",))
    plain = load_model(written(tmp_path))
    unknowns = {"quant_method 'hqq'": {"quant_method": "hqq"}, "bits 3": {"quant_method": "gptq", "bits": 3}}
    for unknown, block in unknowns.items():
        model = load_model(written(tmp_path, quantization_config=block))
        assert model == plain
        assert model.warnings == (f"quantization_config.{unknown} is not known: stored types are passed over",)
    for wrong in ("lm_head", ["lm_head", 3]):
        with pytest.raises(ValueError, match=r"quantization_config.ignore is .*; allowed: a list of at most"):
            load_model(written(tmp_path, quantization_config={"quant_method": "fp8", "ignore": wrong}))


def test_the_type_of_the_cache_can_be_another_one() -> None:
    model = load_model("llama-3.1-8b")
    assert 2 * replace(model, kv_dtype="fp8_e4m3").kv_bytes_per_token == model.kv_bytes_per_token


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
    assert len(load_model(path).layers) == 4


@pytest.mark.parametrize("key", [*SIZES, "architectures", "torch_dtype"])
def test_a_missing_field_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"model.json: {key} is missing$"):
        load_model(written(tmp_path, **{key: ...}))


@pytest.mark.parametrize("key", [*SIZES, "head_dim"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 32.0, "32", True, [8], 2**24 + 1, math.nan])
def test_a_size_of_the_wrong_type_or_range_is_refused(tmp_path: Path, key: str, value: object) -> None:
    most = MAX_LAYERS if key == "num_hidden_layers" else 2**24
    with pytest.raises(ValueError, match=f"model.json: {key} is .*; allowed: an integer from 1 to {most}$"):
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
        ({"architectures": ["MixtralForCausaLM"]}, "allowed: MixtralForCausalLM, "),
        ({"architectures": ["BambaForCausalLM"]}, r"architectures is \['BambaForCausalLM'\]; allowed: "),
        ({"attention_bias": 1}, "attention_bias is 1; allowed: true or false"),
        ({"quantization_config": "fp8"}, "quantization_config is 'fp8'; allowed: an object of fields"),
        ({"quantization_config": {}}, "quantization_config.quant_method is missing"),
        ({"quantization_config": {"quant_method": 8}}, "quant_method is 8; allowed: a name, such as fp8, mxfp4"),
        ({"quantization_config": {"quant_method": "fp8", "fmt": "e3m4"}}, "fmt is 'e3m4'; allowed: e"),
        (
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 0]}},
            r"quantization_config.weight_block_size\[1\] is 0; allowed: ",
        ),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": 128}}, "allowed: a list of two"),
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
    with pytest.raises(
        ValueError, match=r"'llama-3.1-80b'; allowed: llama-3.1-(70|8)b, llama-3.1-(70|8)b, .*, or the path"
    ):
        load_model("llama-3.1-80b")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.json: no such file$"):
        load_model(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match=r"config.json: no such file$"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 0}, "model tiny: hidden is 0; allowed: "),
        ({"hidden": 65}, r"hidden is 65; allowed: as of every layer \(64\)"),
        ({"groups": ()}, r"the groups hold the layers \[\]; allowed: every layer from 0 once"),
        ({"groups": load_model("tiny").groups * 2}, r"the layers \[0, 0, 1, 1\]; allowed: every layer from 0 once"),
        ({"dtype": "bf61"}, "dtype is 'bf61'; allowed: bf16, "),
        ({"kv_dtype": "fp4"}, "kv_dtype is 'fp4'; allowed: fp"),
    ],
)
def test_a_model_built_by_hand_is_checked_too(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(load_model("tiny"), **changes)


VALUES: list[Any] = [None, True, -1, 0, 3, 2**24, 2**70, 1.5, math.nan, "", "float16", [], [0, 1], {}, {"a": []}]


def refusal_of(path: Path) -> str | None:
    try:
        assert load_model(path).parameters > 0
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_value_of_any_field_is_read_or_refused_in_one_line(
    data_dir: Path, tmp_path: Path, architecture: str
) -> None:
    """Replace fields of a published file by odd values: no other error, and no hang."""
    fields = dict(CONFIG)
    for path in sorted((data_dir / "models").glob("*.json")):
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["architectures"] == [architecture]:
            fields = raw.get("text_config", raw)
    rng, path = random.Random(7), tmp_path / "odd.json"
    for key in fields:
        for value in rng.sample(VALUES, 3):
            path.write_text(json.dumps(fields | {"architectures": [architecture], key: value}), encoding="utf-8")
            refusal = refusal_of(path) or f"{path}: "
            assert refusal.startswith(f"{path}: ")
            assert "\n" not in refusal
            assert len(refusal) < len(str(path)) + 1200
