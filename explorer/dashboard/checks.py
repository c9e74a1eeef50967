"""What is no request of our pages: an address without a page, or a body that moves nothing there is.

It stands before Dash, which would show an empty page for the first, and end in an error for the second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

from dash import Dash

UPDATE = "/_dash-update-component"
_OWN = ("/_", "/assets/")  # where Dash serves what pages are made of


def install(app: Dash, check_page: Callable[[str], object]) -> None:
    """Answer in one line what is no request; `check_page` raises ValueError for an address without a page."""
    from flask import Response, request

    def line(status: HTTPStatus, reason: str) -> Response:
        return Response(f"rowhit dashboard: {reason}\n", status, mimetype="text/plain")

    def refuse() -> Response | None:
        try:
            if not request.path.startswith(_OWN):
                check_page(request.path)
        except ValueError as error:
            return line(HTTPStatus.NOT_FOUND, str(error))
        is_asked = request.path == UPDATE and request.method == "POST"
        if is_asked and not is_update(request.get_json(force=True, silent=True), app.callback_map):
            return line(HTTPStatus.BAD_REQUEST, "no update of a page")
        return None

    app.server.before_request(refuse)


def is_update(body: Any, outputs: Collection[str]) -> bool:
    """Tell whether a body asks for one of the outputs, with what it follows from."""
    if not isinstance(body, dict) or not isinstance(body.get("output"), str) or body["output"] not in outputs:
        return False
    parts = [body.get("inputs"), body.get("state", []), body.get("changedPropIds", [])]
    if not all(isinstance(part, list) for part in parts) or not isinstance(body.get("outputs"), dict | list):
        return False
    inputs, state, changed = parts
    named = [each for part in (inputs, state) for each in part]
    return all(isinstance(name, str) for name in changed) and all(map(_is_property, named))


def _is_property(part: Any) -> bool:
    """Tell whether a part of a body is a property of a component, or a list of those that a pattern matches."""
    if isinstance(part, list):
        return all(map(_is_property, part))
    return isinstance(part, dict) and {"id", "property"} <= part.keys()
