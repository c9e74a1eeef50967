"""How far predicted times are from measured ones: the study behind accuracy.md.

    python studies/accuracy.py --rows 1000 --out accuracy.parquet

Draws rows of the public measurements (`kernels/measured.csv.gz` of ROWHIT_DATA), the same part of every operator on
every device, predicts each on the machine that describes its device, and prints the tables of studies/accuracy.md.
Nothing is fitted. Rows are scored by the rules that come with the measurements: for every device, operator, shape and
types the fastest library counts, after rows are dropped whose time says nothing about the hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from explorer.files import write_atomically
from explorer.prediction_table import (
    FIDELITIES,
    Answer,
    Overrides,
    predict_rows,
    read_rows,
    rows_of,
    with_answers,
    write_parquet,
)
from explorer.questions.validated import MEASURED, types_text
from workloads.calls.experts import FORMATS

Records: TypeAlias = list[dict[str, Any]]
SEED = 0
MACHINES = {
    "a100_sxm": "a100-sxm", "a100_sxm_40gb": "a100-sxm-40gb", "a100_pcie_40gb": "a100-pcie-40gb",
    "a100_pcie_80gb": "a100-pcie-80gb", "h100_sxm": "h100-sxm", "h100_pcie": "h100-pcie", "h200_sxm": "h200-sxm",
    "h800_sxm": "h800-sxm", "h20": "h20", "gh200_96gb_hbm3": "gh200", "b200_sxm": "b200-sxm", "b300_sxm": "b300-sxm",
    "gb200": "gb200", "a40": "a40", "l4": "l4", "l40": "l40", "l40s": "l40s", "t4": "t4", "rtx4090": "rtx-4090",
    "rtx_pro_6000_server": "rtx-pro-6000-server", "v100_pcie_32gb": "v100-pcie", "mi100": "mi100",
    "mi300a": "mi300a", "mi300x": "mi300x", "mi355x": "mi355x",
}  # fmt: skip
SHAPE = (
    "op", "dtype", "kv_dtype", "m", "n", "k", "batch", "q_len", "kv_len", "heads_q", "heads_kv", "head_dim",
    "head_dim_v", "window", "causal", "tokens", "hidden", "inter", "experts", "topk", "moe_tp", "rows", "cols",
    "distribution", "gated",
)  # fmt: skip
LARGE = ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm")  # on which other models of these rows were scored
HOPPER = ("h100_sxm", "h200_sxm", "h100_pcie", "h800_sxm", "h20", "gh200_96gb_hbm3")
OPERATORS = {  # names in the tables, worst groups first within
    "gemm": "GEMM", "decode_attention": "decode", "flash_prefill": "prefill", "mla_decode": "MLA decode",
    "mla_prefill": "MLA prefill", "moe_grouped_gemm": "MoE",
}  # fmt: skip
SMALL_US = 20.0  # calls whose bound is less are reported apart; groups of `validated` by their predicted time


def dropped(table: pd.DataFrame) -> pd.Series:
    """Return which rule drops each row from the score; "" for none."""
    text = {
        name: table[name].fillna("").astype(str) for name in ("framework", "kernel", "source", "op", "dtype", "device")
    }
    op, kernel, library = text["op"], text["kernel"].str.lower(), text["framework"].str.lower()
    attention = op.isin(["decode_attention", "flash_prefill"])
    group = table["heads_q"] / table["heads_kv"]
    hopper, fp8_cache = text["device"].isin(HOPPER), table["kv_dtype"].eq("fp8")
    collected = library.isin(["trtllm", "vllm", "sglang"])
    rules = {
        "GEMM: vLLM fp8_block, timed eagerly": (op == "gemm") & (text["dtype"] == "fp8_block") & (library == "vllm"),
        "GEMM: fp32, on CUDA cores": (op == "gemm") & (text["dtype"] == "float32"),
        "decode: TRT-LLM, over 32 query heads per KV head": (
            (op == "decode_attention") & (library == "trtllm") & (group > 32)
        ),
        "attention: Triton fallbacks": attention & kernel.isin(["triton", "vllm_triton_attn"]),
        "decode: A100 vLLM FA2, MHA": (
            (op == "decode_attention") & (text["device"] == "a100_sxm") & (library == "vllm") & (group == 1)
        ),
        "decode: MHA with kv_len up to 2": (op == "decode_attention") & (group == 1) & (table["kv_len"] <= 2),
        "attention: sources of other scope": attention & ~collected,
        "MLA decode: A100, no fused kernel": (op == "mla_decode") & text["device"].str.startswith("a100"),
        "MLA decode: vLLM on Hopper": (
            (op == "mla_decode") & hopper & (library == "vllm") & kernel.str.contains("flash_attn_mla|flashmla")
        ),
        "MLA decode: SGLang fp8 on Hopper": (op == "mla_decode") & hopper & (library == "sglang") & fp8_cache,
        "absmax: the difference of two kernels": (op == "fp8_absmax") & kernel.str.contains("minus"),
        "MoE: vLLM FlashInfer-CUTLASS fp8 on Hopper": (
            (op == "moe_grouped_gemm") & hopper & (library == "vllm") & kernel.str.contains("flashinfer_cutlass")
        ),
    }  # fmt: skip
    found = pd.Series("", index=table.index)
    for name, rule in rules.items():
        found = found.mask(rule & (found == ""), name)
    return found


def sampled(table: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Return about so many rows, the same part of every operator on every device, in the order of the table."""
    if rows >= len(table):
        return table
    rng = np.random.default_rng(seed)
    part = rows / len(table)
    kept: list[int] = []
    for _, group in table.groupby(["op", "device"], sort=True):
        wanted = part * len(group)
        count = int(wanted) + int(rng.random() < wanted - int(wanted))
        kept += rng.choice(group.index.to_numpy(), size=count, replace=False).tolist()
    return table.loc[sorted(kept)]


def predicted(table: pd.DataFrame, jobs: int, fidelity: str = "windows") -> pd.DataFrame:
    """Return the table with the columns of predictions, each row on the machine of its device."""
    parts = []
    for name, rows in table.groupby("device", sort=True):
        device = str(name)
        begun = time.perf_counter()
        if device in MACHINES:
            answers = predict_rows(rows_of(rows), MACHINES[device], fidelity=fidelity, jobs=jobs)
        else:
            answers = [Answer(reason=f"device {device} has no machine description")] * len(rows)
        part = with_answers(rows, answers)
        part.index = rows.index
        parts.append(part)
        print(f"{device}: {len(rows)} rows, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    return pd.concat(parts).sort_index()


def fastest(table: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """Return the scored rows of `table`: one per shape, with the time of the fastest library in `every`."""
    shapes = shape_of(every)
    least, libraries = every["latency_us"].groupby(shapes).min(), every["framework"].groupby(shapes).nunique()
    shape = shape_of(table)
    found = table.assign(latency_us=shape.map(least), libraries=shape.map(libraries))
    return found[~shape.duplicated()]


def shape_of(table: pd.DataFrame) -> pd.Series:
    """Return device, operator, types and sizes of every row as one text, of `elementwise` its function, too."""
    text = table[["device", *SHAPE]].astype("string").fillna("")
    shape = text["device"].str.cat([text[name] for name in SHAPE], sep="|")
    return shape + table["kernel"].where(table["op"] == "elementwise", "").fillna("")


def score(rows: pd.DataFrame) -> dict[str, Any]:
    """Return median and mean error, bias and Kendall's tau, in percent but the last."""
    ratio = rows["predicted_us"].to_numpy() / rows["latency_us"].to_numpy()
    error = np.abs(ratio - 1)
    tau = kendalltau(rows["predicted_us"], rows["latency_us"]).statistic if len(rows) > 2 else float("nan")
    return {
        "n": len(rows),
        "median": 100 * float(np.median(error)),
        "mean": 100 * float(error.mean()),
        "bias": 100 * (float(np.median(ratio)) - 1),
        "tau": tau,
    }


def by_median(rows: Records) -> Records:
    """Return scores, the largest median error first."""
    return sorted(rows, key=lambda row: -float(row["median"]))


def markdown(rows: Records) -> str:
    """Return records as a table, or a word where there are none."""
    if not rows:
        return "none"
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{v:.2f}" if k == "tau" else f"{v:.1f}" if isinstance(v, float) else str(v) for k, v in row.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scored_rows(found: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count: modelled, dropped by no rule, one per shape, with the time of the fastest library."""
    kept = every[dropped(every) == ""]
    counted = found["reason"].isna() & (dropped(found) == "")
    scored = fastest(found[counted].drop(columns=["simulated"]), kept)
    return scored[scored["latency_us"].notna()]


def validated_groups(scored: pd.DataFrame) -> Records:
    """Return scored rows as groups of `validated`: alike in operator, machine, length; three rows and more."""
    rows = scored[scored["op"].isin(MEASURED)].copy()
    rows["machine"] = rows["device"].map(MACHINES)
    cache = rows["kv_dtype"].fillna("")
    rows["types"] = [
        FORMATS[dtype][0] if op == "moe_grouped_gemm" and FORMATS[dtype][0] != "16-bit" else types_text(dtype, kv)
        for op, dtype, kv in zip(rows["op"], rows["dtype"], cache, strict=True)
    ]
    rows["short"] = rows["predicted_us"] <= SMALL_US
    groups = rows.groupby(["op", "machine", "short"], sort=True)
    return [_group(names, group) for names, group in groups if len(group) > 2]


def _group(names: Any, rows: pd.DataFrame) -> dict[str, Any]:
    """Return one group: its range of every size, and its errors as shares, to three decimals."""
    op, machine, short = names
    found = score(rows)
    errors = {f"{name}_error": found[name] / 100 for name in ("median", "mean")} | {"bias": found["bias"] / 100}
    sizes = {name: [int(rows[name].min()), int(rows[name].max())] for name in MEASURED[op] if rows[name].notna().any()}
    head = {"op": op, "machine": machine, "short": bool(short), "types": sorted(set(rows["types"])), "rows": len(rows)}
    return head | {name: round(value, 3) for name, value in errors.items()} | {"sizes": sizes}


def tables(found: pd.DataFrame, every: pd.DataFrame) -> str:
    """Return the tables of the study as Markdown."""
    text = []
    modelled = found["reason"].isna()
    text.append(f"{int(modelled.sum())} of {len(found)} rows modelled ({100 * modelled.mean():.1f} %).\n")
    reasons = found.loc[~modelled, "reason"].str.slice(0, 110).value_counts()
    text.append(markdown([{"rows": int(n), "reason": reason} for reason, n in reasons.items()]))
    rule = dropped(found)
    counts = rule[rule != ""].value_counts()
    text.append("\nDropped from the score, by rule:\n")
    text.append(markdown([{"rows": int(n), "rule": name} for name, n in counts.items()]))
    scored = scored_rows(found, every)
    big = scored["bound_us"] > SMALL_US
    text.append("\n### Error by operator on A100, H100, H200 and B200, bound above 20 us\n")
    text.append(_by_operator(scored[big & scored["device"].isin(LARGE)]))
    for title, part in (("bound above 20 us", scored[big]), ("bound up to 20 us", scored[~big])):
        text.append(f"\n### Error by operator, {title}\n")
        text.append(_by_operator(part))
        text.append(f"\n### Error by operator and device, {title}, groups of three rows and more, worst first\n")
        groups = ((group.iloc[0], group) for _, group in part.groupby(["op", "device"]))
        records = [
            {"operator": one["op"], "device": one["device"]} | score(rows) for one, rows in groups if len(rows) > 2
        ]
        text.append(markdown(by_median(records)))
    several = scored[scored["libraries"] > 1]
    text.append("\n### Shapes with two libraries or more\n")
    text.append(_by_operator(several))
    return "\n".join(text)


def _by_operator(scored: pd.DataFrame) -> str:
    return markdown(by_median([{"operator": op} | score(rows) for op, rows in scored.groupby("op")]))


def write_validated(path: Path, made: str, groups: Records) -> None:
    """Write the file that `explorer.questions.validated` reads, a line per group."""
    lines = ",\n".join(f"  {json.dumps(group)}" for group in groups)
    text = f'{{"made": {json.dumps(made)}, "short_us": {SMALL_US}, "groups": [\n{lines}\n]}}\n'
    write_atomically(path, text.encode())


def transfer(every: pd.DataFrame, jobs: int, rows: int) -> str:
    """Return the score of an H100 whose memory alone is made an H200's, on rows of the H200, beside the H200's own."""
    changes = (("hbm.pin_rate", "6.25 Gb/s"), ("hbm.stacks", "6"), ("hbm.standard", "HBM3E"))
    kept = every[(every["device"] == "h200_sxm") & every["op"].isin(OPERATORS) & (dropped(every) == "")]
    sample = sampled(kept, rows, SEED + 1)
    records: Records = []
    machines: tuple[tuple[str, Overrides], ...] = (("h200-sxm", ()), ("h100-sxm with an H200's memory", changes))
    for name, overrides in machines:
        machine = "h200-sxm" if not overrides else "h100-sxm"
        part = with_answers(sample, predict_rows(rows_of(sample), machine, overrides, jobs=jobs))
        scored = fastest(part[part["reason"].isna()].drop(columns=["simulated"]), kept)
        records += [{"machine": name, "operator": op} | score(group) for op, group in scored.groupby("op")]
    return markdown(records)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--fidelity", choices=FIDELITIES, default=FIDELITIES[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--transfer", type=int, default=0, help="rows of the transfer test, 0 for none")
    parser.add_argument("--validated", type=Path, help="also write explorer/questions/validated.json")
    parser.add_argument("--out", type=Path, default=Path("accuracy.parquet"))
    given = parser.parse_args()
    path = Path(os.environ.get("ROWHIT_DATA", "../shared/data")) / "kernels/measured.csv.gz"
    if not path.exists():
        print(f"{path} is missing: set ROWHIT_DATA to the folder of the reference data")
        return 1
    every = read_rows(path)
    begun = time.perf_counter()
    found = predicted(sampled(every, given.rows, given.seed), given.jobs, given.fidelity)
    write_parquet(found, given.out)
    print(f"{len(found)} rows in {time.perf_counter() - begun:.0f} s by {given.jobs} processes\n")
    print(tables(found, every))
    if given.validated:
        made = f"python studies/accuracy.py --rows {given.rows} --seed {given.seed}"
        write_validated(given.validated, made, validated_groups(scored_rows(found, every)))
    if given.transfer:
        print("\n### H100 with an H200's memory\n")
        print(transfer(every, given.jobs, given.transfer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
