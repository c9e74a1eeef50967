"""The top floor: a study in, a searched space and a report out; or a question in, an answer out.

study (YAML) -> space (every distinct point with its lower bound) -> search (ask, simulate, tell) -> store
(one row per point) -> certificate, tables and figures -> report. Everything below is pure; files, processes,
the terminal and the environment are met here. A search asks the lower floors through `evaluate` alone; what shows or
explains a program, a run, a machine or a layout reads their types itself.

For scripts and notebooks: `explorer.ask`, `explorer.whatif` and `explorer.robust`, loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explorer.questions.asking import ask, whatif
    from explorer.questions.robustness import robust

__all__ = ["ask", "robust", "whatif"]
_HOMES = {"ask": "asking", "whatif": "asking", "robust": "robustness"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"explorer.questions.{_HOMES[name]}"), name)
