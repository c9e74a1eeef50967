"""A page of pictures as HTML text: heading, links to the pages beside it, pictures below their sentences, provenance.

Pages open from a folder without a network; plotly.js lies beside them once, or is in the page. Every text that a study
can choose is escaped, also in figures.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from explorer.provenance import provenance
from explorer.storage.folder import Identity
from explorer.views.look import DETERMINISTIC, shielded
from explorer.views.view import Picture

SCRIPT = "plotly.min.js"
GENERATOR = '<meta name="generator" content="rowhit">'  # by which a page is known
LIMITS = "What is modelled, and what is not, stands in the README; assumed numbers are marked in every machine's file."
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222 }
pre { background: #f4f4f4; padding: 1em; font-size: 12px; overflow-x: auto }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: 2px 10px; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
td.text, th.text { text-align: left }
nav a { margin-right: 1.2em }
.wide { overflow-x: auto; max-height: 32em }
footer, .left-out { color: #555 }
"""
CONFIG = {"displaylogo": False, "showSendToCloud": False}  # no button that uploads the figure


def page(title: str, body: Iterable[str], links: Mapping[str, str] | None = None, script: str | None = None) -> str:
    """Return a page; `links` are the pages beside it by name, `script` is plotly.js where it is not beside the page."""
    head = f'<meta charset="utf-8">{GENERATOR}<title>{html.escape(title)}</title><style>{STYLE}</style>'
    head += f'<script src="{SCRIPT}"></script>' if script is None else f"<script>{script}</script>"
    anchors = (f'<a href="{html.escape(file)}">{html.escape(name)}</a>' for name, file in (links or {}).items())
    menu = f"<nav>{''.join(anchors)}</nav>\n" if links else ""
    text = "\n".join(part for part in body if part)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{menu}<h1>{html.escape(title)}</h1>\n{text}\n'
        "</body></html>\n"
    )


@dataclass(frozen=True)
class Section:
    """A picture as pages take it: `figure` is plain values in which no text is read as markup, None where left out."""

    name: str
    title: str
    text: str
    figure: dict[str, Any] | None


def sections_of(pictures: Iterable[Picture]) -> Iterator[Section]:
    """Yield the pictures that are shown, then what is left out and why."""
    found = list(pictures)
    for each in sorted(found, key=lambda picture: picture.figure is None):
        figure = shielded(each.figure) if each.figure is not None else None
        yield Section(each.view.name, each.view.title, each.text, figure)


def sections(pictures: Iterable[Picture]) -> list[str]:
    """Return the HTML of a section per picture; what is not shown is said at the end."""
    found = list(sections_of(pictures))
    lines = [f"<li>{html.escape(f'{each.title}: {each.text}')}</li>" for each in found if each.figure is None]
    shown = [section(each.title, each.text, each.figure, each.name) for each in found if each.figure is not None]
    return [*shown, f'<ul class="left-out">{"".join(lines)}</ul>' if lines else ""]


def section(title: str, text: str, figure: Mapping[str, Any], name: str) -> str:
    """Return a heading, the sentence, and the shielded figure below it, whose `name` is unique on its page."""
    import plotly.io

    drawing = plotly.io.to_html(
        figure, full_html=False, include_plotlyjs=False, div_id=name, config=CONFIG, validate=False
    )
    return f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n{drawing}"


def footer(identities: Iterable[Identity]) -> str:
    """Return where the numbers of a page come from (S14)."""
    parts = []
    for identity in identities:
        study = html.escape(json.dumps(identity.study.model_dump(), indent=1, ensure_ascii=False))
        whole = f"<details><summary>The study, as it was asked</summary><pre>{study}</pre></details>"
        parts.append(facts_table(provenance(identity)) + whole)
    return f"<footer><h2>Provenance</h2><p>{DETERMINISTIC} {LIMITS}</p>{''.join(parts)}</footer>"


def facts_table(facts: Mapping[str, str]) -> str:
    """Return facts by name as a table."""
    lines = (
        f'<tr><td class="text">{html.escape(name)}</td><td class="text">{html.escape(text)}</td></tr>'
        for name, text in facts.items()
    )
    return f"<table>{''.join(lines)}</table>"
