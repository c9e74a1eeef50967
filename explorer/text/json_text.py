"""The JSON that commands print, and the option that asks for it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def print_json(record: Any) -> None:
    print(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False, default=_number))


def _number(value: Any) -> Any:
    """Return a NumPy number as a Python one."""
    return value.item()
