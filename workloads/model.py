"""A model as the sizes of its tensors: dense decoder-only transformers of the Llama family.

First step of the data's path: a hub `config.json` (or a shipped list of facts with the same keys) becomes a
`Model`, from which batches, page tables and kernels take their shapes.
What would make those sizes wrong is refused, not ignored: other architectures (experts, latent attention),
sliding windows, biases, quantised checkpoints. Where a file is silent, the default of the architecture's
configuration class in the `transformers` library holds, because that is what a checkpoint with this file
means.
Not modelled: positions, activation functions, norms' epsilons and everything else that leaves sizes
unchanged; the KV cache is taken to have the type of the weights.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from layouts.notation import nearest_first

MODELS = Path(__file__).parent / "models"
MAX_FILE_BYTES = 1 << 20  # assumed: a hundred times a published configuration
MAX_SIZE = 1 << 24  # assumed: far above any published size, keeps a mistyped one from overflowing further down
DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}  # torch's names
_SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads_q": "num_attention_heads",
    "heads_kv": "num_key_value_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
}


@dataclass(frozen=True)
class _Architecture:
    qk_norm: bool  # a norm of head_dim weights on the queries and one on the keys
    head_dim: int | None  # where the file has none; None: hidden_size / num_attention_heads
    plain: Mapping[str, tuple[object, object]]  # field -> (value where the file has none, the one value modelled)


_NO_BIAS = {"attention_bias": (False, False), "mlp_bias": (False, False), "quantization_config": (None, None)}
# Defaults: src/transformers/models/{llama,mistral,qwen3}/configuration_*.py of huggingface/transformers.
ARCHITECTURES = {
    "LlamaForCausalLM": _Architecture(False, None, _NO_BIAS),
    "MistralForCausalLM": _Architecture(False, None, _NO_BIAS | {"sliding_window": (4096, None)}),
    "Qwen3ForCausalLM": _Architecture(True, 128, _NO_BIAS | {"use_sliding_window": (False, False)}),
}


@dataclass(frozen=True)
class Model:
    """The sizes of one dense decoder-only transformer.

    Sizes are integers from 1 to 2^24; `heads_kv` divides `heads_q`; `dtype` (weights and KV cache) is one of
    `DTYPE_BYTES`. Raises ValueError otherwise.
    """

    name: str
    layers: int
    hidden: int
    heads_q: int
    heads_kv: int
    head_dim: int
    intermediate: int
    vocabulary: int
    dtype: str
    tied_embeddings: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        where = f"model {self.name}"
        for field in (*_SIZES, "head_dim"):
            _check_size(getattr(self, field), where, field)
        _check_groups(self.heads_q, self.heads_kv, where, "heads_q", "heads_kv")
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(_refusal(where, "dtype", self.dtype, nearest_first(self.dtype, DTYPE_BYTES)))

    @property
    def kv_bytes_per_token(self) -> int:
        """The bytes of keys and values that one token of one sequence occupies, over all layers."""
        return 2 * self.layers * self.heads_kv * self.head_dim * DTYPE_BYTES[self.dtype]

    @property
    def parameters(self) -> int:
        """The number of weights: embedding, attention, gated MLP, norms, and the output head unless tied."""
        attention = 2 * self.hidden * self.head_dim * (self.heads_q + self.heads_kv)  # q and o, k and v
        mlp = 3 * self.hidden * self.intermediate  # gate, up, down
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * (attention + mlp + norms) + self.hidden + embeddings

    @property
    def active_parameters(self) -> int:
        """The number of weights one token uses: all of them, because the model is dense."""
        return self.parameters

    @property
    def state_bytes(self) -> int:
        """The bytes of recurrent state per sequence: none, because every layer is softmax attention."""
        return 0


def model_names() -> tuple[str, ...]:
    """Return the names of the shipped models, sorted."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.yaml")))


def load_model(name_or_path: str | os.PathLike[str]) -> Model:
    """Return the model of a shipped name or of a hub configuration file.

    `name_or_path`: a member of `model_names()`, a file (or any path that ends in .json), or a directory that
    holds `config.json`. A file named `config.json` gives the model the name of its directory, any other its
    own stem. Fields that are not needed are ignored. Raises ValueError with one line that names the file, the
    field, its value and what is allowed.
    """
    text = os.fspath(name_or_path)
    names = model_names()
    if text in names:
        path = MODELS / f"{text}.yaml"
        return _model(yaml.safe_load(path.read_text(encoding="utf-8"))["config"], text, str(path))
    path = Path(text)
    if path.is_dir():
        path = path / "config.json"
    elif path.suffix != ".json" and not path.exists():
        allowed = f"{nearest_first(text, names)}, or the path of a config.json"
        raise ValueError(f"no model is named {_shown(text)}; allowed: {allowed}")
    name = path.absolute().parent.name if path.name == "config.json" else path.stem
    return _model(_read_json(path), name or path.stem, str(path))


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{path}: larger than {MAX_FILE_BYTES} bytes, the most a configuration may have")
    try:
        raw = json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start}: not UTF-8 text") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply for a configuration") from None
    except ValueError:  # an integer of thousands of digits
        raise ValueError(f"{path}: holds a number too long to be a size") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: the file is {_shown(raw)}; allowed: an object of fields")
    return raw


def _model(raw: Mapping[str, Any], name: str, where: str) -> Model:
    architecture = _architecture(raw, where)
    _check_plain(raw, architecture, where)
    sizes = {field: _size(raw, key, where) for field, key in _SIZES.items()}
    _check_groups(sizes["heads_q"], sizes["heads_kv"], where, _SIZES["heads_q"], _SIZES["heads_kv"])
    tied = raw.get("tie_word_embeddings", False)  # false in all three configuration classes
    if not isinstance(tied, bool):
        raise ValueError(_refusal(where, "tie_word_embeddings", tied, "true or false"))
    return Model(
        name,
        **sizes,
        head_dim=_head_dim(raw, architecture, sizes, where),
        dtype=_dtype(raw, where),
        tied_embeddings=tied,
        qk_norm=architecture.qk_norm,
    )


def _architecture(raw: Mapping[str, Any], where: str) -> _Architecture:
    value = _required(raw, "architectures", where)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        found = ARCHITECTURES.get(value[0])
        if found is not None:
            return found
        raise ValueError(_refusal(where, "architectures", value, nearest_first(value[0], ARCHITECTURES)))
    raise ValueError(_refusal(where, "architectures", value, f"a list of one of {', '.join(ARCHITECTURES)}"))


def _check_plain(raw: Mapping[str, Any], architecture: _Architecture, where: str) -> None:
    for key, (default, modelled) in architecture.plain.items():
        value = raw.get(key, default)
        if value is not modelled and value is not None:
            silent = "" if key in raw else " (the default where the file has none)"
            raise ValueError(_refusal(where, key, value, json.dumps(modelled), silent))


def _head_dim(raw: Mapping[str, Any], architecture: _Architecture, sizes: Mapping[str, int], where: str) -> int:
    if raw.get("head_dim") is not None:
        return _size(raw, "head_dim", where)
    if architecture.head_dim is not None:
        return architecture.head_dim
    if sizes["hidden"] % sizes["heads_q"]:
        allowed = f"a multiple of num_attention_heads ({sizes['heads_q']}) where head_dim is absent"
        raise ValueError(_refusal(where, "hidden_size", sizes["hidden"], allowed))
    return sizes["hidden"] // sizes["heads_q"]


def _dtype(raw: Mapping[str, Any], where: str) -> str:
    key = "dtype" if "dtype" in raw else "torch_dtype"  # files since transformers 4.56 say dtype
    value = _required(raw, key, where)
    if not isinstance(value, str) or value not in _DTYPES:
        raise ValueError(_refusal(where, key, value, nearest_first(str(value), _DTYPES)))
    return _DTYPES[value]


def _required(raw: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in raw:
        raise ValueError(f"{where}: {key} is missing")
    return raw[key]


def _size(raw: Mapping[str, Any], key: str, where: str) -> int:
    value = _required(raw, key, where)
    _check_size(value, where, key)
    return int(value)


def _check_size(value: object, where: str, field: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
        raise ValueError(_refusal(where, field, value, f"an integer from 1 to {MAX_SIZE}"))


def _check_groups(heads_q: int, heads_kv: int, where: str, field_q: str, field_kv: str) -> None:
    if heads_q % heads_kv:
        raise ValueError(_refusal(where, field_kv, heads_kv, f"a divisor of {field_q} ({heads_q})"))


def _refusal(where: str, field: str, value: object, allowed: str, remark: str = "") -> str:
    return f"{where}: {field} is {_shown(value)}{remark}; allowed: {allowed}"


def _shown(value: object) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)
