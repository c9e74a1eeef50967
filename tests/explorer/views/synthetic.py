"""A study with everything that views ask for, made from a formula: two objectives, a mix, capacities, refusals."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from explorer.storage.details import Details
from explorer.storage.folder import Identity
from explorer.study.study import Study
from explorer.views.study_data import BASELINE, BEST, StudyData

KNOBS: dict[str, list[Any]] = {
    "layout": ["page head", "head page"],
    "tile": [16, 32, 64],
    "machine.cores.sram.capacity": ["64 KiB", "128 KiB", "256 KiB"],
}


def study(**fields: Any) -> Study:
    asked = {"name": "synthetic", "machine": "nowhere", "kernel": "fake", "knobs": KNOBS, "baseline": {"tile": 16}}
    return Study.model_validate(asked | fields)


def row(point: int, layout: str, tile: int, capacity: str) -> dict[str, Any]:
    kib = int(capacity.split()[0])
    short, long = 100.0 + (layout == "head page") * 20 + 640 / tile, 300.0 - (layout == "head page") * 60 + 640 / tile
    time_us, read = short + long, 10**9 + 10**11 // (kib * tile)
    energy = {"hbm io": read / 100, "sram": 1e6 * kib}
    return {
        "point": point,
        "batch": point // 4,
        "key": f"k{point}",
        "layout": layout,
        "tile": tile,
        "machine.cores.sram.capacity": capacity,
        "status": "simulated",
        "bound_us": time_us * 0.8,
        "reason": "",
        "time_us": time_us,
        "energy_pj": sum(energy.values()),
        "energy_bound_pj": sum(energy.values()) * 0.9,
        **{f"energy_by_component_pj.{name}": value for name, value in energy.items()},
        "hbm_read_bytes": read,
        "hbm_write_bytes": 10**6,
        "hbm_bandwidth_fraction": 0.5 + tile / 200,
        "row_hits": 10 * tile,
        "row_misses": 5,
        "row_conflicts": 1,
        "limited_by": "hbm",
        "utilisation.matrix": 0.2 + tile / 400,
        "utilisation.hbm": 0.5 + tile / 200,
        "mix.short.time_us": short,
        "mix.long.time_us": long,
        "stalls.load.useful": int(1e6 * short),
        "stalls.load.memory": int(1e6 * long),
    }


def data(name: str = "synthetic", **fields: Any) -> StudyData:
    """18 simulated points and one pruned; two points of the space do not fit."""
    rows = [row(place, *choice) for place, choice in enumerate(product(*KNOBS.values()))]
    pruned = {name: rows[0][name] for name in ("batch", "layout", "tile", "machine.cores.sram.capacity")}
    rows.append(pruned | {"point": len(rows), "key": "p", "status": "pruned", "bound_us": 900.0, "reason": ""})
    frame = pd.DataFrame(rows)
    space = frame[["key", "bound_us", "energy_bound_pj"]].assign(reason="")
    refused = [{"key": f"r{n}", "bound_us": None, "reason": f"needs {n} B of scratchpad"} for n in (10, 20)]
    space = pd.concat([space, pd.DataFrame(refused)], ignore_index=True)
    banks = np.arange(32).reshape(4, 8)
    details = Details(
        pd.DataFrame({"time_us": [0.0, 1.0], "bytes_per_second": [1e12, 2e12]}),
        {"bursts": banks * 3, "activates": banks, "conflicts": banks // 2},
    )
    identity = Identity(study(name="synthetic", **fields), {"machine": "m1"}, tuple(KNOBS), "fake · nowhere")
    return StudyData(name, identity, frame, space, {BASELINE: details, BEST: details})
