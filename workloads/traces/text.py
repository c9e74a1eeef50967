"""The text of a trace file, plain or gzip, within a limit."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from workloads.traces.table import MAX_TOKENS

MAX_TRACE_BYTES = 1 << 26  # assumed: uncompressed; the published traces have 1.1 and 3.0 MB

_GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, section 2.3.1


def read_text(path: Path) -> str:
    """Return the text of a file; ValueError naming it if it is no UTF-8, too large, or cannot be read."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GZIP_MAGIC))
        with gzip.open(path) if magic == _GZIP_MAGIC else path.open("rb") as file:
            content = file.read(MAX_TRACE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if len(content) > MAX_TRACE_BYTES:
        raise ValueError(f"{path}: larger than {MAX_TRACE_BYTES} bytes, the most a trace may have")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start}: not UTF-8 text") from None


def refuse(where: str, field: str, value: object, allowed: str) -> ValueError:
    """Return the error of a field: where, what stands there (cut to 40 characters), what may stand there."""
    shown = repr(value)
    return ValueError(f"{where}: {field} is {shown if len(shown) <= 44 else shown[:40] + '...'}; allowed: {allowed}")


TOKENS_ALLOWED = f"an integer from 1 to {MAX_TOKENS}"
