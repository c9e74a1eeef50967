"""Who may ask: a browser on a page of ours. Stands between the server and the application, as WSGI middleware.

A foreign name in `Host` is a page elsewhere whose name was made to lead here (DNS rebinding); a foreign `Origin` is a
page elsewhere that posts here. Both are refused before the application sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_READS = ("GET", "HEAD", "OPTIONS")
_SAME = ("same-origin", "none")
_HEADERS = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
]
_ADDED = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]

Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]


def hosts(address: str, port: int) -> frozenset[str]:
    """Return the names by which the server may be called: those of loopback, and the address it listens on."""
    return frozenset(f"{name}:{port}" for name in (*LOOPBACK, address))


def refusal(request: Mapping[str, Any], allowed: frozenset[str]) -> str:
    """Return why a request (a WSGI environment) is refused, or nothing."""
    host = str(request.get("HTTP_HOST", "")).lower()
    if host not in allowed:
        return f"Host {host[:80]!r}: allowed: {', '.join(sorted(allowed))}"
    if request.get("REQUEST_METHOD") in _READS:
        return ""
    origin = str(request.get("HTTP_ORIGIN", f"http://{host}")).lower()
    if origin != f"http://{host}":
        return f"Origin {origin[:80]!r}: allowed: pages of this server"
    if str(request.get("HTTP_SEC_FETCH_SITE", _SAME[0])).lower() not in _SAME:
        return "a request from another site; allowed: pages of this server"
    return ""


class Guard:
    """A WSGI application that answers for another one only what may be asked."""

    def __init__(self, application: Application, allowed: frozenset[str]) -> None:
        self._application, self._allowed = application, allowed

    def __call__(self, request: dict[str, Any], start: Start) -> Iterable[bytes]:
        if reason := refusal(request, self._allowed):
            start("403 Forbidden", _HEADERS)
            return [f"rowhit dashboard: {reason}\n".encode()]

        def started(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start(status, [*headers, *_ADDED], *more)

        return self._application(request, started)
