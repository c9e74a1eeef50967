from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from explorer.dashboard.guard import Guard, hosts, refusal

ALLOWED = hosts("127.0.0.1", 8050)


def request(host: str = "127.0.0.1:8050", method: str = "GET", **headers: str) -> dict[str, Any]:
    return {"HTTP_HOST": host, "REQUEST_METHOD": method} | {f"HTTP_{name}": value for name, value in headers.items()}


@pytest.mark.parametrize("host", ["127.0.0.1:8050", "localhost:8050", "LOCALHOST:8050", "[::1]:8050"])
def test_our_own_names_are_answered(host: str) -> None:
    assert refusal(request(host), ALLOWED) == ""
    assert refusal(request(host, "POST", ORIGIN=f"http://{host}"), ALLOWED) == ""


@pytest.mark.parametrize(
    "host", ["evil.example:8050", "127.0.0.1:8051", "127.0.0.1", "", "127.0.0.1:8050.evil.example"]
)
def test_a_foreign_host_is_refused(host: str) -> None:
    assert refusal(request(host), ALLOWED).startswith("Host ")
    assert refusal({"REQUEST_METHOD": "GET"}, ALLOWED).startswith("Host ")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8050", "http://localhost:8050"])
def test_a_post_from_another_page_is_refused(origin: str) -> None:
    assert refusal(request(method="POST", ORIGIN=origin), ALLOWED).startswith("Origin ")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "x"])
def test_what_a_browser_says_of_another_site_is_refused(method: str) -> None:
    assert "another site" in refusal(request(method=method, SEC_FETCH_SITE="cross-site"), ALLOWED)
    assert refusal(request(method=method, SEC_FETCH_SITE="same-origin"), ALLOWED) == ""


def test_what_is_refused_does_not_reach_the_application() -> None:
    asked: list[dict[str, Any]] = []
    answers: list[tuple[str, list[tuple[str, str]]]] = []

    def application(environment: dict[str, Any], start: Any) -> Iterable[bytes]:
        asked.append(environment)
        start("200 OK", [])
        return [b"page"]

    guard = Guard(application, ALLOWED)
    refused = guard(request("evil.example"), lambda status, headers, *_: answers.append((status, headers)))
    assert b"evil.example" in b"".join(refused)
    assert asked == []
    assert b"".join(guard(request(), lambda status, headers, *_: answers.append((status, headers)))) == b"page"
    assert [status for status, _ in answers] == ["403 Forbidden", "200 OK"]
    assert ("X-Frame-Options", "DENY") in answers[1][1]
