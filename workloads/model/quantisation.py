"""The quantisation block of a configuration: types and scales of the stored matrices; nothing of it changes a count.

So a method that is not known is warned of, not refused. Read are fp8, mxfp4 and mxfp8, awq and gptq of four bits,
`compressed-tensors` and `modelopt`, each for all matrices, or those of its targets, but for the modules that it
excludes, by name.
Sources: fp8 with a scale per block of 128 x 128, README_WEIGHTS.md of deepseek-ai/DeepSeek-V3; MXFP4 and MXFP8, 32
elements of e2m1 or e4m3 to an e8m0 scale, OCP Microscaling Formats 1.0; fp4 experts of DeepSeek V4, alike; NVFP4, 16
of e2m1 to an e4m3 scale, cuBLAS documentation.
Not modelled: zero points, groups of modules in several formats, quantised caches.
"""

from __future__ import annotations

from typing import Any

from workloads.model.fields import MAX_SIZE, Fields, check_size, shown
from workloads.model.model import Quantisation

_FP8_FORMATS = {"e4m3": "fp8_e4m3", "float8_e4m3fn": "fp8_e4m3", "e5m2": "fp8_e5m2", "float8_e5m2": "fp8_e5m2"}
_SCALES = {"ue8m0": "e8m0", "float": "fp32"}
MX_BLOCK = (32,)
_MX = {"mxfp4": "fp4_e2m1", "mxfp8": "fp8_e4m3"}
_EXCLUSIONS = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules")
_MAX_NAMES = 1 << 16  # assumed: fifty times the most in a published configuration
_LINEAR = "Linear"  # the class of all matrices of a model but embeddings
METHODS = ("fp8", *_MX, "awq", "gptq", "compressed-tensors", "modelopt")


def read_quantisation(fields: Fields) -> tuple[Quantisation | None, tuple[str, ...]]:
    """Return what a file says about stored types, None where it says nothing, and the lines about unknown fields."""
    experts = fields.choice("expert_dtype", ("fp4", "fp8")) if fields.has("expert_dtype") else None
    if not fields.has("quantization_config"):
        return None, ()
    block = fields.section("quantization_config")
    block.has("activation_scheme")  # of no effect on what is stored how
    method = block.required("quant_method")
    if not isinstance(method, str):
        raise block.refuse("quant_method", method, f"a name, such as {', '.join(METHODS)}")
    excluded = _excluded(block)
    if method in _MX:
        return Quantisation(_MX[method], MX_BLOCK, "e8m0", excluded=excluded), block.unknown()
    if method in ("awq", "gptq"):
        return _integers(block, method, excluded)
    if method in ("compressed-tensors", "modelopt"):
        return _grouped(block, method, excluded)
    if method != "fp8":
        return None, (_unknown(block, "quant_method", method),)
    scale = _SCALES[block.choice("scale_fmt", tuple(_SCALES), "float")]
    dtype = _FP8_FORMATS[block.choice("fmt", tuple(_FP8_FORMATS), "e4m3")]
    of_experts = "fp4_e2m1" if experts == "fp4" else None
    return Quantisation(dtype, _block(block), scale, of_experts, excluded), block.unknown()


def _unknown(fields: Fields, key: str, value: object) -> str:
    return f"{fields.name(key)} {shown(value)} is not known: stored types are passed over"


def _excluded(fields: Fields) -> tuple[str, ...]:
    """Return the names of the modules that stay as they were."""
    found: list[str] = []
    for key in _EXCLUSIONS:
        if fields.has(key):
            found += _names(fields, key)
    return tuple(found)


def _names(fields: Fields, key: str) -> list[str]:
    """Return a list of names of modules."""
    value = fields.required(key)
    known = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if not known or len(value) > _MAX_NAMES:
        raise fields.refuse(key, value, f"a list of at most {_MAX_NAMES} names of modules")
    return list(value)


def _integers(block: Fields, method: str, excluded: tuple[str, ...]) -> tuple[Quantisation | None, tuple[str, ...]]:
    """Return the four bits of AWQ and GPTQ, whose groups of k have a 16-bit scale."""
    bits, group = block.size("bits", 4), block.size("group_size", 128, least=-1)
    for key in ("zero_point", "sym", "desc_act", "version", "backend", "checkpoint_format", "damp_percent", "meta"):
        block.has(key)
    if bits != 4 or group < 1:
        return None, (_unknown(block, "bits" if bits != 4 else "group_size", bits if bits != 4 else group),)
    return Quantisation("int4", (group,), "16-bit", excluded=excluded), block.unknown()


def _grouped(block: Fields, method: str, excluded: tuple[str, ...]) -> tuple[Quantisation | None, tuple[str, ...]]:
    """Return what the groups of `compressed-tensors` and `modelopt` say of weights, where they say one thing."""
    if not block.has("config_groups"):
        return None, (_unknown(block, "quant_method", method),)
    groups = block.section("config_groups")
    parts = [groups.section(key) for key in groups.keys]
    found = {_weights(part.section("weights")) if part.has("weights") else None for part in parts}
    weights_only = {not part.has("input_activations") for part in parts}
    if len(found) != 1 or None in found or len(weights_only) > 1:
        return None, (f"{block.name('config_groups')} are not known: stored types are passed over",)
    (known,) = found
    assert known is not None
    targets = _targets(parts)
    of_caches = f"{block.name('kv_cache_scheme')} is passed over: caches have the type of activations"
    warnings = (of_caches,) if block.has("kv_cache_scheme") else ()
    for key in ("format", "quant_algo", "producer", "quantization_status", "global_compression_ratio", "version"):
        block.has(key)
    quantisation = Quantisation(*known, excluded=excluded, targets=targets, weights_only=weights_only.pop())
    return quantisation, (*warnings, *block.unknown())


def _targets(groups: list[Fields]) -> tuple[str, ...]:
    """Return the names of the modules of all groups, none where one of these has all linear layers."""
    found: list[str] = []
    for group in groups:
        names = _names(group, "targets") if group.has("targets") else [_LINEAR]
        if _LINEAR in names:
            return ()
        found += names
    return tuple(found)


def _weights(fields: Fields) -> tuple[str, tuple[int, ...], str] | None:
    """Return type, block and scale type of the weights of a group, None for those that are not known."""
    bits, kind = fields.size("num_bits"), fields.choice("type", ("int", "float"), "int")
    group = fields.size("group_size", 0, least=-1)
    if (bits, kind) == (4, "int") and group > 0:
        return "int4", (group,), "16-bit"
    if (bits, kind) == (4, "float") and group in (16, 32):
        return "fp4_e2m1", (group,), "fp8_e4m3" if group == 16 else "e8m0"
    if (bits, kind, group) == (8, "float", 32):
        return "fp8_e4m3", MX_BLOCK, "e8m0"
    if (bits, kind) == (8, "float") and group <= 0:
        structure = "block_structure" if fields.has("block_structure") else ""
        return "fp8_e4m3", _block(fields, structure) if structure else (), "fp32"
    return None


def _block(fields: Fields, key: str = "weight_block_size") -> tuple[int, ...]:
    """Return rows and columns of a block with one scale, () for one scale per matrix."""
    if not fields.has(key):
        return ()
    value: Any = fields.required(key)
    if not isinstance(value, list) or len(value) != 2:
        raise fields.refuse(key, value, "a list of two integers, rows and columns")
    for at, entry in enumerate(value):
        check_size(entry, fields.where, fields.name(f"{key}[{at}]"), MAX_SIZE)
    return tuple(value)
