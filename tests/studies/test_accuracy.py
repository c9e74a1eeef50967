from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from hwmodel.spec import machine_names

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies/accuracy.py"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(study: ModuleType, **changes: object) -> pd.DataFrame:
    """Return one row of a decode step, with changes."""
    plain: dict[str, object] = dict.fromkeys((*study.SHAPE, "source", "device", "framework", "kernel"))
    plain |= {"op": "decode_attention", "dtype": "bfloat16", "kv_dtype": "bfloat16", "device": "h100_sxm"}
    plain |= {"framework": "trtllm", "kernel": "torch_flow", "heads_q": 32.0, "heads_kv": 8.0, "kv_len": 100.0}
    return pd.DataFrame([plain | {"latency_us": 10.0} | changes])


def test_without_measurements_it_says_so_in_one_line_and_fails(tmp_path: Path) -> None:
    environment = os.environ | {"ROWHIT_DATA": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(STUDY)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "set ROWHIT_DATA" in done.stdout
    assert done.stderr == ""


def test_every_device_is_described_by_a_shipped_machine(study: ModuleType) -> None:
    assert set(study.MACHINES.values()) <= set(machine_names())


def test_a_sample_takes_the_same_part_of_every_operator_on_every_device(study: ModuleType) -> None:
    table = pd.DataFrame({"op": ["a"] * 400 + ["b"] * 200, "device": (["x"] * 100 + ["y"] * 100) * 3})
    found = study.sampled(table, 150, 0)
    assert found.groupby(["op", "device"]).size().tolist() == [50, 50, 25, 25]
    assert found.index.is_monotonic_increasing
    assert found.equals(study.sampled(table, 150, 0))
    assert not found.equals(study.sampled(table, 150, 1))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, ""),
        ({"heads_q": 64.0, "heads_kv": 1.0}, "decode: TRT-LLM, over 32 query heads per KV head"),
        ({"framework": "sglang", "kernel": "triton"}, "attention: Triton fallbacks"),
        ({"framework": "literature"}, "attention: sources of other scope"),
        (
            {"device": "a100_sxm", "framework": "vllm", "heads_q": 8.0},
            "decode: A100 vLLM FA2, MHA",
        ),
        ({"heads_q": 8.0, "kv_len": 2.0}, "decode: MHA with kv_len up to 2"),
        ({"op": "gemm", "dtype": "float32"}, "GEMM: fp32, on CUDA cores"),
        ({"op": "gemm", "dtype": "fp8_block", "framework": "vllm"}, "GEMM: vLLM fp8_block, timed eagerly"),
        ({"op": "mla_decode", "device": "a100_sxm"}, "MLA decode: A100, no fused kernel"),
        (
            {"op": "mla_decode", "framework": "sglang", "kv_dtype": "fp8"},
            "MLA decode: SGLang fp8 on Hopper",
        ),
        ({"op": "mla_decode", "framework": "vllm", "kernel": "vllm_flashmla"}, "MLA decode: vLLM on Hopper"),
    ],
)
def test_rows_that_say_nothing_about_the_hardware_are_dropped_by_name(
    study: ModuleType, changes: dict[str, object], rule: str
) -> None:
    assert study.dropped(rows(study, **changes)).tolist() == [rule]


def test_a_row_is_scored_against_the_fastest_library_of_its_shape(study: ModuleType) -> None:
    every = pd.concat(
        [rows(study), rows(study, framework="vllm", latency_us=7.0), rows(study, kv_len=200.0)], ignore_index=True
    )
    found = study.fastest(every[:2].assign(predicted_us=8.0), every)
    assert found[["latency_us", "libraries"]].to_numpy().tolist() == [[7.0, 2.0]]


def test_scores_are_errors_in_percent_with_their_sign(study: ModuleType) -> None:
    table = pd.DataFrame({"predicted_us": [1.1, 2.4, 2.7], "latency_us": [1.0, 2.0, 3.0]})
    found = study.score(table)
    assert found["n"] == 3
    assert found["median"] == pytest.approx(10)
    assert found["mean"] == pytest.approx((10 + 20 + 10) / 3)
    assert found["bias"] == pytest.approx(10)
    assert found["tau"] == pytest.approx(1)


def test_tables_name_what_is_missing_and_put_the_worst_group_first(study: ModuleType) -> None:
    every = pd.concat(
        [rows(study, kv_len=float(n), device=device) for device in ("h100_sxm", "a100_sxm") for n in range(10, 14)],
        ignore_index=True,
    )
    error = np.where(every["device"] == "h100_sxm", 2.0, 1.1)
    found = every.assign(
        predicted_us=10.0 * error, bound_us=30.0, limited_by="hbm", knobs="", simulated="whole", reason=None
    )
    found.loc[0, "reason"] = "too odd"
    text = study.tables(found, every)
    assert "7 of 8 rows modelled" in text
    assert "| 1 | too odd |" in text
    assert text.index("decode_attention | h100_sxm | 3 | 100.0") < text.index("decode_attention | a100_sxm | 4 | 10.0")


@pytest.mark.slow
def test_a_few_public_rows_are_predicted_on_their_machines(study: ModuleType, data_file: object) -> None:
    every = study.read_rows(data_file("kernels/measured.csv.gz"))  # type: ignore[operator]
    found = study.predicted(study.sampled(every, 30, 1), 1)
    assert found["reason"].isna().mean() > 0.6
    modelled = found[found["reason"].isna()]
    assert (modelled["predicted_us"] >= modelled["bound_us"] * (1 - 1e-9)).all()
