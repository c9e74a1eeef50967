"""From a name or a file to a `Model`: shipped facts, a hub's `config.json`, or the folder of one.

Reading is safe: files of bounded size, plain JSON, no code of the repository's (`auto_map`) is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from layouts.notation import nearest_first
from workloads.model.architectures import ARCHITECTURES
from workloads.model.architectures.stack import Stack
from workloads.model.fields import Fields, refusal, shown
from workloads.model.model import Model, Quantisation, grouped
from workloads.model.quantisation import read_quantisation

MODELS = Path(__file__).parent.parent / "models"
MAX_FILE_BYTES = 1 << 20  # assumed: fifty times a published configuration
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}  # torch's names
ENCODERS = ("vision_config", "audio_config")


def model_names() -> tuple[str, ...]:
    """Return the names of the shipped models, sorted."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.yaml")))


def load_model(name_or_path: str | os.PathLike[str]) -> Model:
    """Return the model of a shipped name or of a hub configuration file.

    `name_or_path`: a member of `model_names()`, a file (or any path that ends in .json), or a directory that
    holds `config.json`. A file named `config.json` gives the model the name of its directory, any other its
    own stem. Fields without effect on sizes are passed over, unknown ones named in `Model.warnings`. Raises
    ValueError with one line that names the file, the field, its value and what is allowed.
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
        raise ValueError(f"no model is named {shown(text)}; allowed: {allowed}")
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
        raise ValueError(f"{path}: the file is {shown(raw)}; allowed: an object of fields")
    return raw


def _model(raw: Mapping[str, Any], name: str, where: str) -> Model:
    outer = fields = Fields(raw, where)
    read = ARCHITECTURES[_architecture(fields)]
    if outer.has("text_config"):
        fields = outer.section("text_config")
        fields.inherit(outer)
    try:
        stack = read(fields)
    except ValueError as error:  # a part refuses what its fields do not fit together
        raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    quantisation, warnings = read_quantisation(fields)
    dtype, notes = _dtype(fields, quantisation)
    warnings = (*warnings, *fields.unknown(), *(outer.unknown() if outer is not fields else ()))
    return Model(
        name,
        grouped(stack.layers),
        stack.hidden,
        stack.vocabulary,
        dtype,
        stack.tied_embeddings,
        quantisation=quantisation,
        streams=stack.streams,
        mtp=stack.mtp,
        notes=(*notes, *_left_out(outer, stack)),
        warnings=warnings,
    )


def _architecture(fields: Fields) -> str:
    value = fields.required("architectures")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        if value[0] in ARCHITECTURES:
            return value[0]
        raise fields.refuse("architectures", value, nearest_first(value[0], ARCHITECTURES))
    raise fields.refuse("architectures", value, f"a list of one of {', '.join(ARCHITECTURES)}")


def _dtype(fields: Fields, quantisation: Quantisation | None) -> tuple[str, tuple[str, ...]]:
    """Return the type of activations and of weights that are not quantised, and what is supposed about it."""
    key = "dtype" if fields.present("dtype") else "torch_dtype"  # files since transformers 4.56 say dtype
    if quantisation is not None and not fields.has(key):
        return "bf16", ("the file has no dtype: bf16 is supposed beside the quantised weights",)
    value = fields.required(key)
    if not isinstance(value, str) or value not in DTYPES:
        raise ValueError(refusal(fields.where, fields.name(key), value, nearest_first(str(value), DTYPES)))
    return DTYPES[value], ()


def _left_out(outer: Fields, stack: Stack) -> tuple[str, ...]:
    found = [f"{key}: the text model only is counted" for key in ENCODERS if outer.has(key)]
    if stack.mtp:
        found.append(f"multi-token prediction: {len(stack.mtp)} of its layers counted apart")
    return (*found, *stack.notes)
