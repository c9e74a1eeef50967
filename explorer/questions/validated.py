"""Whether an answer lies in the range that was validated against measurements, and how far off the model was there.

`validated.json` is what `studies/accuracy.py --validated` writes: per operator, machine and length of the call, the
types and the range of every size among the measured calls that were scored, and the errors of their predictions. A
prediction takes the best schedule of a template and all launches of a call, so what is validated is the model of an
operator on a machine, not every knob of a kernel. A machine with a changed number is another machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from explorer import programs
from explorer.query import Query

FILE = Path(__file__).parent / "validated.json"
Sizes = Mapping[str, Iterable[int]]
WORDS = {
    "bf16": "16-bit",
    "fp16": "16-bit",
    "bfloat16": "16-bit",
    "float32": "fp32",
    "float16": "16-bit",
    "fp8_e4m3": "fp8",
}


@dataclass(frozen=True)
class Group:
    """Measured calls that are alike. `sizes`: the least and the largest of each; errors are shares of time.

    `short`: whether predicted times are at most `Validated.short_us`. `bias`: median predicted / measured, less 1.
    """

    op: str
    machine: str
    short: bool
    types: tuple[str, ...]
    rows: int
    median_error: float
    mean_error: float
    bias: float
    sizes: Mapping[str, tuple[int, int]]

    def outside(self, sizes: Sizes) -> list[str]:
        """Return what of some sizes lies outside, in words."""
        found = []
        for name, (low, high) in self.sizes.items():
            values = list(sizes.get(name, ()))
            if wrong := [value for value in values if not low <= value <= high]:
                found.append(f"{name} {wrong[0]:,} (measured: {low:,} to {high:,})")
        return found


@dataclass(frozen=True)
class Validation:
    """Whether an answer is `inside` of what was validated, in words; the errors there as shares, None outside."""

    inside: bool
    text: str
    rows: int = 0
    median_error: float | None = None
    mean_error: float | None = None
    bias: float | None = None

    def record(self) -> dict[str, Any]:
        """Return the validation as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class Validated:
    """All that was validated: `made` is the command that found it."""

    made: str
    short_us: float
    groups: tuple[Group, ...]


@lru_cache(maxsize=1)
def validated() -> Validated:
    """Return the ranges that come with the project."""
    found = json.loads(FILE.read_text("utf-8"))
    groups = []
    for group in found["groups"]:
        sizes = {name: (low, high) for name, (low, high) in group["sizes"].items()}
        groups.append(Group(**(group | {"types": tuple(group["types"]), "sizes": sizes})))
    return Validated(found["made"], found["short_us"], tuple(groups))


def validation(query: Query, time_us: float, known: Validated | None = None) -> Validation:
    """Return where a query stands; `time_us`: its time, as the model has it."""
    known = known or validated()
    spec = programs.machine_of(query.machine).spec
    machine = spec.name
    own = [group for group in known.groups if group.machine == machine]
    if not own:
        return Validation(False, f"not validated: no measurement of {machine}")
    changed = [path for path, _ in query.machine_overrides]
    if spec.hash != programs.machine_of(machine).spec.hash:  # a file that calls itself like a measured machine
        changed.append(query.machine)
    if changed:
        return Validation(False, f"not validated: a machine of other numbers than {machine} ({', '.join(changed)})")
    if query.kernel not in ROWS:
        return Validation(False, f"not validated: no measurement of {query.kernel} as such")
    op, types, sizes = ROWS[query.kernel](programs.problem_of(query))
    short = time_us <= known.short_us
    length = f"{'up to' if short else 'above'} {known.short_us:g} us"
    alike = [group for group in own if (group.op, group.short) == (op, short) and types in group.types]
    if not alike:
        return Validation(False, f"not validated: no measurement of {op} in {types} on {machine}, {length}")
    (group,) = alike
    if outside := group.outside(sizes):
        return Validation(False, f"outside the validated range of {op} on {machine}: {', '.join(outside)}")
    return Validation(True, _inside(group, length), group.rows, group.median_error, group.mean_error, group.bias)


def _inside(group: Group, length: str) -> str:
    calls = f"{group.rows} measured calls of {group.op} in {' or '.join(group.types)}"  # a range of all types together
    return (
        f"in the range of {calls} on {group.machine}, {length}: predictions off by "
        f"{100 * group.median_error:.0f} % in the median, {100 * group.mean_error:.0f} % in the mean "
        f"(bias {100 * group.bias:+.0f} %)"
    )


def types_text(dtype: str, kv_dtype: str = "") -> str:
    """Return types as groups name them: 16-bit, or 16-bit with a cache in fp8."""
    kind, cache = WORDS.get(dtype, dtype), WORDS.get(kv_dtype, kv_dtype)
    return kind if cache in ("", kind) else f"{kind} with a cache in {cache}"


Rows = Callable[[Any], tuple[str, str, Sizes]]


def _decode(p: Any) -> tuple[str, str, Sizes]:
    heads = {"heads_q": (p.heads_q,), "heads_kv": (p.heads_kv,), "head_dim": (p.head_dim,)}
    types = types_text(p.dtype, p.kv_dtype or p.dtype)
    return "decode_attention", types, {"batch": (len(p.contexts),), "kv_len": p.contexts, **heads}


def _prefill(p: Any) -> tuple[str, str, Sizes]:
    _, types, sizes = _decode(p)
    return "flash_prefill", types, {**sizes, "q_len": (p.q_len,) if p.q_len else p.contexts}


def _mla_decode(p: Any) -> tuple[str, str, Sizes]:
    sizes = {"batch": (len(p.contexts),), "kv_len": p.contexts, "heads_q": (p.heads.count,)}
    return "mla_decode", types_text(p.heads.dtype), sizes


def _mla_prefill(p: Any) -> tuple[str, str, Sizes]:
    sizes = {"batch": (len(p.tokens),), "q_len": p.tokens, "heads_q": (p.heads,)}
    return "mla_prefill", types_text(p.dtype), sizes


def _product(p: Any) -> tuple[str, str, Sizes]:
    sizes = {"m": (p.m,), "n": (p.n,), "k": (p.k,)}
    many = {} if p.batch is None else {"batch": (p.batch,)}
    return "gemm" if p.batch is None else "batched_gemm", types_text(p.dtype), sizes | many


def _experts(p: Any) -> tuple[str, str, Sizes]:
    sizes = {name: (getattr(p, name),) for name in ("tokens", "hidden", "inter", "experts", "topk")}
    return "moe_grouped_gemm", types_text(p.dtype) if p.format == "16-bit" else p.format, sizes


def _rowwise(op: str, columns: str = "columns") -> Rows:
    return lambda p: (op, types_text(p.dtype), {"rows": (p.rows,), "cols": (getattr(p, columns),)})


ROWS: Mapping[str, Rows] = {  # by kernel: operator, types and sizes of a problem, as the measurements name them
    "decode-attention": _decode,
    "prefill-attention": _prefill,
    "mla-decode": _mla_decode,
    "mla-prefill": _mla_prefill,
    "gemm": _product,
    "gemm-fp8": _product,
    "gemm-fp32": _product,
    "batched-gemm": _product,
    "batched-gemm-fp8": _product,
    "batched-gemm-fp32": _product,
    "moe": _experts,
    "rms-norm": _rowwise("rmsnorm"),
    "layer-norm": _rowwise("layernorm"),
    "softmax": _rowwise("softmax"),
    "residual-add": _rowwise("add"),
    "swiglu": _rowwise("silu_mul", "inter"),
}
MEASURED = {  # sizes that a range names, by operator
    "decode_attention": ("batch", "kv_len", "heads_q", "heads_kv", "head_dim"),
    "flash_prefill": ("batch", "q_len", "kv_len", "heads_q", "heads_kv", "head_dim"),
    "mla_decode": ("batch", "kv_len", "heads_q"),
    "mla_prefill": ("batch", "q_len", "heads_q"),
    "gemm": ("m", "n", "k"),
    "batched_gemm": ("batch", "m", "n", "k"),
    "moe_grouped_gemm": ("tokens", "hidden", "inter", "experts", "topk"),
    "rmsnorm": ("rows", "cols"),
    "layernorm": ("rows", "cols"),
    "softmax": ("rows", "cols"),
    "add": ("rows", "cols"),
    "silu_mul": ("rows", "cols"),
}
