"""Request traces: when requests came, how long they were, and which prompts begin alike.

First step of the data's path. Every reader gives one `RequestTable`, whatever the file looks like; `workloads.batch`
draws decode batches from it, `workloads.replay` serves it step by step. A file that cannot be used is refused in one
line that names it, the line, the field, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from workloads.traces.azure import read_azure
from workloads.traces.mooncake import read_mooncake
from workloads.traces.table import MAX_TOKENS, PromptBlocks, RequestTable
from workloads.traces.text import MAX_TRACE_BYTES

READERS: dict[str, Callable[[Path], RequestTable]] = {
    "azure-2023-conversation": read_azure,
    "mooncake-conversation": read_mooncake,
}

__all__ = ["MAX_TOKENS", "MAX_TRACE_BYTES", "READERS", "PromptBlocks", "RequestTable", "read_azure", "read_mooncake"]
