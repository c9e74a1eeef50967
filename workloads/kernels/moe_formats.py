"""In which formats a layer of experts multiplies: how activations and weights are stored, and where their scales lie.

| format | activations | weights | product |
|---|---|---|---|
| 16-bit | 16 bits | 16 bits | |
| fp8 | e4m3 under a scale that is given | e4m3, a scale per expert | the sum is scaled |
| w8a8-block | e4m3, fp32 scales of 1 x 128 | e4m3, fp32 scales of 128 x 128 | promoted in fp32 every 128 of k |
| nvfp4 | e2m1, e4m3 scales per 16 of k, one given | the same, one per expert | scaled operands; the sum is scaled |
| mxfp8 | e4m3, e8m0 scales per 32 of k | the same | scaled operands |
| w4a16 | 16 bits | integers of 4 bits, 16-bit scales per 128 of k | weights expanded |
| w4a16-g32 | 16 bits | the same with scales per 32 of k | weights expanded |
| w8a16-fp8 | 16 bits | e4m3, 16-bit scales per 128 of k | weights expanded |
| w4a16-mxfp4 | bf16 | e2m1, e8m0 scales per 32 of k | weights expanded |
| w4a16-nvfp4 | bf16 | e2m1, e4m3 scales per 16 of k, one per expert | weights expanded; the sum is scaled |
| w4a8-mxfp4-mxfp8 | e4m3, e8m0 scales per 32 of k | e2m1, e8m0 scales per 32 of k | scaled operands of 8 bits |

Each is that of a dense template (`gemm_mx`, `gemm_w4a16`, `gemm_w8a8`, `gemm`). Scaled operands are multiplied as they
lie by a matrix unit that applies scales, where those of 4 bits beside 8 take the place and the rate of 8; elsewhere
both are expanded to bf16. Not modelled: scales found by a pass over all activations, zero points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from hwmodel.assembler import block
from hwmodel.machine import Machine
from hwmodel.program import DTYPES, NONE, Buffer, Tensor
from layouts import Layout
from layouts.catalog.scales import BLOCK, deepgemm_sfa, deepgemm_sfb
from layouts.catalog.sizes import round_up
from layouts.notation import NamedLayout, named
from workloads.kernels.gemm_expansion import Stored
from workloads.kernels.gemm_mx import FORMATS as MICROSCALED
from workloads.kernels.gemm_mx import scale_buffer, scales_layout
from workloads.kernels.gemm_tiles import LINE_BYTES

E4M3 = Stored(1, "fp8_e4m3", 1, "")
BLOCKS = Stored(1, "fp8_e4m3", BLOCK, "fp32")


@dataclass(frozen=True)
class Operand:
    """How activations or weights lie in memory: 16 bits unless `stored`, scales in the order `scales`.

    `expanded` is the vector operation that makes the operand of a matmul, without its first word; "": none.
    """

    stored: Stored | None = None
    scales: Literal["", "128x4", "linear", "m-major", "squares", "groups"] = ""
    expanded: str = ""

    @property
    def per_byte(self) -> int:
        return self.stored.per_byte if self.stored else 1

    @property
    def bits(self) -> int:
        """Bits of an element in memory."""
        return 8 // self.stored.per_byte if self.stored else 16

    def scale_bytes(self, rows: int, k: int) -> int:
        """Return what the scales of a tile of rows by k take in the scratchpad, at most: in whole tiles of 128 rows."""
        if self.stored is None or not self.scales:
            return 0
        there = round_up(rows, BLOCK) if self.scales == "128x4" else rows
        return there * -(-k // self.stored.block) * DTYPES[self.stored.scale_dtype or "bf16"].itemsize

    def dtype(self, activations: str) -> str:
        """Return the type of elements in memory."""
        return self.stored.dtype if self.stored else activations

    def scale_layout(self, rows: int, k: int) -> NamedLayout:
        """Return where the scales of a matrix [rows, k] lie, axes row and col."""
        assert self.stored is not None
        if self.scales == "m-major":
            return deepgemm_sfa(rows, k)
        if self.scales == "squares":
            return deepgemm_sfb(rows, k)
        if self.scales == "groups":
            return named("col row", {"row": rows, "col": -(-k // self.stored.block)})
        return scales_layout(self.scales, rows, k, self.stored)

    def scale_buffer(self, name: str, rows: int, k: int, stages: int, activations: str) -> Buffer:
        """Return the request for the scales of a tile of rows by k."""
        assert self.stored is not None
        if self.scales == "128x4":
            return scale_buffer(self.stored, name, self.scales, (rows, k), stages)
        return block(name, rows, k // self.stored.block, self.stored.scale_dtype or activations, stages)


@dataclass(frozen=True)
class Format:
    """Activations and weights, and what is done to their product.

    `unit`: elements of k in a tile are a multiple of it; `native`: the type of operands inside a matrix unit that
    applies their scales; `quantise`: the vector operation that makes the activations of 16 bits.
    """

    a: Operand
    b: Operand
    unit: int = 1
    native: Literal["", "fp8_scaled", "fp4_scaled"] = ""
    promoted: bool = False
    scaled: bool = False
    quantise: str = ""

    @property
    def expands(self) -> bool:
        return bool(self.a.expanded or self.b.expanded)

    def tile_k(self, wanted: int) -> int:
        """Return the elements of k in a tile: whole blocks of scales, of products that are promoted one."""
        return self.unit if self.promoted else round_up(wanted, self.unit)

    def line(self, machine: Machine) -> int:
        """Return the elements of k in a tile: a line of the wider operand, or 128 where one is expanded."""
        if self.expands and not self.is_native(machine):
            return BLOCK
        return LINE_BYTES * 8 // max(self.a.bits, self.b.bits)

    def is_native(self, machine: Machine) -> bool:
        """Return whether the machine's matrix unit applies the scales itself."""
        return bool(self.native) and getattr(machine.spec.cores.matrix, self.native) is not None

    def gathered(self) -> Format:
        """Return the format whose scales of activations lie row by row, to be gathered as the rows are."""
        return replace(self, a=replace(self.a, scales="linear")) if self.a.scales else self


PLAIN, FP8 = Operand(), Operand(E4M3)
MXFP8 = Operand(MICROSCALED["mxfp8"], "128x4", "blocks")
MXFP4 = Operand(MICROSCALED["mxfp4"], "128x4", "fp4")
NVFP4 = Operand(MICROSCALED["nvfp4"], "128x4", "fp4")
INT4, INT4_32 = (Operand(Stored(2, "uint8", group, ""), "groups", "int4") for group in (128, 32))
E4M3_GROUPS = Operand(Stored(1, "fp8_e4m3", 128, ""), "groups", "blocks")
FORMATS = {
    "16-bit": Format(PLAIN, PLAIN),
    "fp8": Format(FP8, FP8, scaled=True, quantise="quantise"),
    "w8a8-block": Format(
        Operand(BLOCKS, "m-major"), Operand(BLOCKS, "squares"), BLOCK, promoted=True, quantise="quantise_blocks"
    ),
    "nvfp4": Format(NVFP4, NVFP4, 16, "fp4_scaled", scaled=True, quantise="quantise_nvfp4"),
    "mxfp8": Format(MXFP8, MXFP8, 32, "fp8_scaled", quantise="quantise_mx"),
    "w4a16": Format(PLAIN, INT4, 128),
    "w4a16-g32": Format(PLAIN, INT4_32, 32),
    "w8a16-fp8": Format(PLAIN, E4M3_GROUPS, 128),
    "w4a16-mxfp4": Format(PLAIN, MXFP4, 32),
    "w4a16-nvfp4": Format(PLAIN, NVFP4, 16, scaled=True),
    "w4a8-mxfp4-mxfp8": Format(MXFP8, MXFP4, 32, "fp8_scaled", quantise="quantise_mx"),
}
OF_FP16 = ("16-bit", "w4a16", "w4a16-g32", "w8a16-fp8")  # the others have results in bf16


def check_format(name: str, dtype: str) -> Format:
    """Return a format by its name. Raises ValueError for activations of a type that it does not have."""
    if dtype != "bf16" and name not in OF_FP16:
        raise ValueError(f"options: format {name} with a model of {dtype}; allowed: bf16")
    return FORMATS[name]


def activation_tensors(
    form: Format, name: str, rows: int, k: int, dtype: str, *, gathered: bool = False
) -> list[Tensor]:
    """Return the activations of a product (row, k), and their scales (row, col) where they have any."""
    a = form.gathered().a if gathered else form.a
    there = named("row k", {"row": rows, "k": -(-k // a.per_byte)})
    tensors = [Tensor(name, there, a.dtype(dtype), NONE, "cache")]
    if a.stored and a.scales:
        tensors.append(Tensor(f"scales {name}", a.scale_layout(rows, k), a.stored.scale_dtype, NONE, "cache"))
    return tensors


def weight_tensors(form: Format, name: str, layout: NamedLayout, n: int, k: int, dtype: str) -> list[Tensor]:
    """Return the weights, whose last two axes are n and k (in bytes), and their scales with the axes before them."""
    b = form.b
    tensors = [Tensor(name, layout, b.dtype(dtype), NONE)]
    if b.stored and b.scales:
        outer = {axis: layout.size(axis) for axis in layout.axes[:-2]}
        scales = stacked(b.scale_layout(n, k), outer)
        tensors.append(Tensor(f"scales {name}", scales, b.stored.scale_dtype or dtype, NONE))
    return tensors


def expert_scales(name: str, experts: int) -> Tensor:
    """Return the tensor of the two scales of the sums of every expert: of activations, and of its weights."""
    return Tensor(name, named("expert operand", {"expert": experts, "operand": 2}), "fp32", NONE)


def stacked(one: NamedLayout, outer: Mapping[str, int]) -> NamedLayout:
    """Return the layout of many matrices one after another, with more axes before those of one, outermost first."""
    counts, step = list(outer.values()), one.layout.cosize
    steps = [step * math.prod(counts[i + 1 :]) for i in range(len(counts))]
    modes = [one.mode(axis) for axis in one.axes]
    shapes, strides = (*counts, *(mode.shape for mode in modes)), (*steps, *(mode.stride for mode in modes))
    return NamedLayout((*outer, *one.axes), Layout(shapes, strides))
