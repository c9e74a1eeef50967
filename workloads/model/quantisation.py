"""The quantisation block of a configuration: types and scales of the stored matrices; nothing of it changes a count.

So a method that is not known is warned of, not refused.
Sources: fp8 with a scale per block of 128 x 128, README_WEIGHTS.md of deepseek-ai/DeepSeek-V3; MXFP4 and MXFP8, 32
elements of e2m1 or e4m3 to an e8m0 scale, OCP Microscaling Formats 1.0; fp4 experts of DeepSeek V4, alike.
Not modelled: which matrices are kept in full precision.
"""

from __future__ import annotations

from workloads.model.fields import MAX_SIZE, Fields, check_size, shown
from workloads.model.model import Quantisation

_FP8_FORMATS = {"e4m3": "fp8_e4m3", "float8_e4m3fn": "fp8_e4m3", "e5m2": "fp8_e5m2", "float8_e5m2": "fp8_e5m2"}
_SCALES = {"ue8m0": "e8m0", "float": "fp32"}
MX_BLOCK = (32,)
_MX = {"mxfp4": "fp4_e2m1", "mxfp8": "fp8_e4m3"}


def read_quantisation(fields: Fields) -> tuple[Quantisation | None, tuple[str, ...]]:
    """Return what a file says about stored types, None where it says nothing, and the lines about unknown fields."""
    experts = fields.choice("expert_dtype", ("fp4", "fp8")) if fields.has("expert_dtype") else None
    if not fields.has("quantization_config"):
        return None, ()
    block = fields.section("quantization_config")
    for key in ("activation_scheme", "modules_to_not_convert", "ignored_layers"):  # of no effect on what is stored how
        block.has(key)
    method = block.required("quant_method")
    if not isinstance(method, str):
        raise block.refuse("quant_method", method, f"a name, such as fp8, {', '.join(_MX)}")
    if method in _MX:
        return Quantisation(_MX[method], MX_BLOCK, "e8m0"), block.unknown()
    if method != "fp8":
        return None, (f"{block.name('quant_method')} {shown(method)} is not known: stored types are passed over",)
    scale = _SCALES[block.choice("scale_fmt", tuple(_SCALES), "float")]
    dtype = _FP8_FORMATS[block.choice("fmt", tuple(_FP8_FORMATS), "e4m3")]
    found = Quantisation(dtype, _block(block), scale, "fp4_e2m1" if experts == "fp4" else None)
    return found, block.unknown()


def _block(fields: Fields) -> tuple[int, ...]:
    """Return rows and columns of a block with one scale, () for one scale per matrix."""
    if not fields.has("weight_block_size"):
        return ()
    value = fields.required("weight_block_size")
    if not isinstance(value, list) or len(value) != 2:
        raise fields.refuse("weight_block_size", value, "a list of two integers, rows and columns")
    for at, entry in enumerate(value):
        check_size(entry, fields.where, fields.name(f"weight_block_size[{at}]"), MAX_SIZE)
    return tuple(value)
