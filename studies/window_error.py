"""How far times by windows are from those of whole runs: the study behind `explorer/questions/window_error.json`.

    python -m studies.window_error --out explorer/questions/window_error.json

Runs a set of programs both ways, as `rowhit whatif` does with `--fidelity windows`, with `auto` where that cuts them,
and with `exact`, and prints a line for each. Programs are those of common kernels and layouts, half of them just long
enough to be cut, as whole runs take minutes where windows pay off most. Of designs of one problem it also compares how
they differ.

What windows miss is mostly that cores drift apart. They begin in step, with their requests in the same open rows. When
they fall out of step, often after some 20 us, rows are in conflict and the memory serves them more slowly from then on:
windows that end before are too fast, and those during which it happens count it once for every difference of windows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import combinations
from pathlib import Path
from statistics import median

from explorer import programs
from explorer.asked import query_of
from explorer.files import write_atomically
from explorer.query import Query
from explorer.questions.fidelity import Measured, measure

MLA = {"heads": 16}
MOE = {"tokens": 128, "experts": 32, "topk": 4, "inter": 1024, "hidden": 2048}
LAYERS = "page kv head token dim"
Sizes = dict[str, int | str]
IN_ORDER: Sizes = {"page_size": 64, "page_order": "contiguous", "stages": 6, "epilogue": "exposed", "tile": 128}
DEEP: Sizes = {"tile_m": 128, "tile_n": 128, "tile_k": 64, "stages": 2}  # little in flight, at pitches of powers of two
CASES: tuple[tuple[str, str, str | None, int | None, int | None, Sizes, tuple[Sizes, ...]], ...] = (
    ("h100-sxm", "decode-attention", "llama-3.1-70b", 16, 2048, {}, ({},)),
    ("h200-sxm", "decode-attention", "llama-3.1-8b", 8, 8192, {}, ({"split_tokens": 512}, {"split_tokens": 1024})),
    ("a100-sxm", "decode-attention", "llama-3.1-8b", 16, 2048, {}, ({}, {"layout": LAYERS})),
    (
        "npu-hbm3", "decode-attention", "llama-3.1-8b", 16, 2048, {},
        ({}, {"layout": LAYERS}, {"layout": LAYERS, "page_size": 64}, {"page_size": 64}),
    ),
    ("npu-hbm3", "decode-attention", "llama-3.1-8b", 32, 8192, {}, ({}, {"layout": LAYERS, "page_size": 64})),
    ("npu-hbm3", "decode-attention", "llama-3.1-8b", 64, 2048, {}, ({}, {"page_size": 64})),
    ("npu-hbm3", "decode-attention", "llama-3.1-8b", 32, 4096, {}, ({}, {"page_size": 64})),
    ("npu-hbm3", "decode-attention", "llama-3.1-8b", 16, 8192, {}, ({}, {"page_size": 64})),
    ("npu-hbm3", "decode-attention", "llama-3.1-70b", 12, 6000, {}, ({}, IN_ORDER)),
    ("npu-hbm3", "decode-attention", "llama-3.1-70b", 64, 4096, {}, ({}, IN_ORDER)),
    ("tpu-v5e", "decode-attention", "llama-3.1-8b", 32, 4096, {}, ({}, {"layout": LAYERS})),
    ("npu-hbm3", "gemv", None, None, None, {"m": 1, "n": 28672, "k": 8192}, ({},)),
    ("npu-hbm3", "prefill-attention", "llama-3.1-8b", 1, 2048, {}, ({},)),
    ("a100-sxm", "prefill-attention", "llama-3.1-8b", 2, 4096, {}, ({},)),
    ("h100-sxm", "prefill-attention", "llama-3.1-8b", 16, 1024, {}, ({},)),
    ("h200-sxm", "mla-prefill", None, 2, 4096, MLA, ({},)),
    ("h100-sxm", "mla-decode", None, 64, 2048, MLA, ({"stages": 2},)),
    ("npu-hbm3", "gemm", None, None, None, {"m": 1024, "n": 4096, "k": 4096}, ({}, {"tile_k": 128})),
    ("npu-hbm3", "gemm", None, None, None, {"m": 512, "n": 4096, "k": 4096}, (DEEP, DEEP | {"tile_n": 64})),
    ("npu-hbm3", "gemm", None, None, None, {"m": 256, "n": 8192, "k": 8192}, (DEEP,)),
    ("h100-sxm", "gemm", None, None, None, {"m": 2048, "n": 2048, "k": 4096}, ({},)),
    ("h100-sxm", "moe", None, None, None, MOE, ({},)),
    ("mi300x", "gemm", None, None, None, {"m": 4096, "n": 4096, "k": 8192}, ({}, {"tile_m": 64, "tile_n": 128})),
    ("mi300a", "gemm", None, None, None, {"m": 2048, "n": 8192, "k": 4096}, ({},)),
    ("npu-hbm3", "gemm", None, None, None, {"m": 2048, "n": 8192, "k": 4096}, ({},)),
    ("b200-sxm", "gemm", None, None, None, {"m": 4096, "n": 8192, "k": 4096}, ({},)),
)  # fmt: skip


def query(case: int, knobs: Sizes) -> Query:
    """Return the query of a case with knobs, those that suit the problem for the rest."""
    machine, kernel, model, batch, context, sizes, _ = CASES[case]
    asked = query_of(machine, kernel, model, batch, context, None, 0, dict(sizes))
    for name, value in knobs.items():
        asked = asked.with_knob(name, value)
    return programs.suggested(asked)


def time_us(measured: Measured) -> float:
    found = measured.metrics["time_us"]
    assert isinstance(found, int | float)
    return found


def pairs(fidelity: str) -> list[list[tuple[str, float, float]]]:
    """Return by case the programs that windows cut: what they are, and their times by windows and whole."""
    found = []
    for case in range(len(CASES)):
        designs = []
        for knobs in CASES[case][-1]:
            begun = time.process_time()
            asked = query(case, knobs)
            cut = measure(asked, fidelity)
            middle = time.process_time()
            title = f"{programs.describe(asked)} {knobs or ''}".strip()
            if cut.how == "whole":
                print(f"{title}: run whole", flush=True)
                continue
            whole = time_us(measure(asked, "exact"))
            spent = f"{middle - begun:.1f} of {time.process_time() - middle:.1f} CPU-s"
            designs.append((title, time_us(cut), whole))
            error = 100 * (time_us(cut) / whole - 1)
            print(
                f"{title}: {time_us(cut):.2f} us by {fidelity}, {whole:.2f} whole, {error:+.1f} %, {spent}", flush=True
            )
        found.append(designs)
    return found


def summary(found: list[list[tuple[str, float, float]]]) -> dict[str, str | int | float]:
    """Return what `explorer.questions.window_error` reads; errors are shares."""
    errors = {title: abs(cut / whole - 1) for designs in found for title, cut, whole in designs}
    ratios = [
        abs((one[1] / other[1]) / (one[2] / other[2]) - 1)
        for designs in found
        for one, other in combinations(designs, 2)
    ]
    worst = max(errors, key=lambda title: errors[title])
    return {
        "made": "python -m studies.window_error",
        "programs": len(errors),
        "median": round(median(errors.values()), 4),
        "worst": round(errors[worst], 4),
        "worst_program": worst,
        "ratios": len(ratios),
        "worst_ratio": round(max(ratios, default=0.0), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a JSON file for the summary")
    given = parser.parse_args()
    text = json.dumps({fidelity: summary(pairs(fidelity)) for fidelity in ("windows", "auto")}, indent=1)
    print(text)
    if given.out:
        write_atomically(given.out, f"{text}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
