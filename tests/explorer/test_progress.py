from __future__ import annotations

import sys

import pytest
from numba.core import event

from explorer.progress import COMPILING, announce_compiling


@pytest.mark.parametrize(("terminal", "said"), [(True, COMPILING + "\n"), (False, "")])
def test_a_terminal_is_told_once_that_something_is_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, said: str
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with monkeypatch.context() as patched:
        patched.setattr(event, "_registered", {kind: list(there) for kind, there in event._registered.items()})
        event._registered.setdefault("numba:compile", [])
        announce_compiling.cache_clear()
        announce_compiling()
        assert capsys.readouterr().err == ""
        for _ in range(2):
            with event.trigger_event("numba:compile"):
                pass
        announce_compiling.cache_clear()
    assert capsys.readouterr().err == said
