"""The pictures of one simulation, bandwidth over time and bank counts, as the bytes of an `.npz` archive.

The store keeps them for the baseline and for each point that was once the best, the memo for every simulation.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from explorer.evaluate import Outcome

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MAX_BYTES = 1 << 28  # of all arrays; assumed: thousands of times what a simulation leaves
_PARTS = {"bandwidth/time_us", "bandwidth/bytes_per_second", "banks/activates", "banks/conflicts"}


@dataclass(frozen=True)
class Details:
    """See `evaluate.Outcome`."""

    bandwidth: pd.DataFrame
    banks: Mapping[str, np.ndarray]


def pack(outcome: Outcome) -> bytes:
    """Return the arrays of an outcome, the same bytes for the same arrays."""
    import numpy as np

    arrays = {f"bandwidth/{name}": array for name, array in outcome.bandwidth.items()}
    arrays |= {f"banks/{name}": array for name, array in outcome.banks.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_pictures(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return bandwidth and banks of a file, read no further than they may be long; ValueError for anything else."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("details without end")
    return unpack(data)


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return bandwidth and banks as `pack` took them; ValueError for anything else."""
    import numpy as np

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_sizes(archive)
        with np.load(io.BytesIO(data)) as arrays:
            parts = {name: arrays[name] for name in arrays.files}  # in the order packed
    except (OSError, EOFError, ValueError, TypeError, LookupError, MemoryError, zipfile.BadZipFile, zlib.error):
        raise ValueError("damaged details") from None
    if not parts.keys() >= _PARTS:
        raise ValueError("details without their parts")
    bandwidth = {name.split("/")[1]: array for name, array in parts.items() if name.startswith("bandwidth/")}
    banks = {name.split("/")[1]: array for name, array in parts.items() if name.startswith("banks/")}
    return bandwidth, banks


def _check_sizes(archive: zipfile.ZipFile) -> None:
    """Raise ValueError where the archive is too large, or an array in it says to be larger than its part of it."""
    from numpy.lib import format as npy

    if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
        raise ValueError
    for entry in archive.infolist():
        with archive.open(entry) as file:
            if npy.read_magic(file) != (1, 0):
                raise ValueError
            shape, _, dtype = npy.read_array_header_1_0(file)
            if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError
