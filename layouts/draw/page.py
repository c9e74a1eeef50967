"""A page of pictures that opens without a network: one HTML file, no scripts."""

from __future__ import annotations

from collections.abc import Iterable

from layouts.draw.svg import clean

MAX_TEXT = 10_000  # assumed: characters of the text of a section
MAX_PAGE = 64 << 20  # assumed: characters a browser still opens at once

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #ffffff; margin: 2rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
figure { margin: 0; overflow-x: auto; } p { max-width: 60rem; white-space: pre-line; }
"""


def html_page(title: str, sections: Iterable[tuple[str, str] | tuple[str, str, str]]) -> str:
    """Return an HTML page of (heading, SVG) or (heading, SVG, text) sections; headings and texts are escaped.

    ValueError if a section's second part is no SVG of this package, or the page is longer than 64 MiB.
    """
    parts: list[str] = []
    for heading, svg, *text in sections:
        if not (svg.startswith("<svg xmlns=") and svg.endswith("</svg>") and "<script" not in svg):
            raise ValueError(f"section {heading[:80]!r}: expected an SVG picture, found {svg[:40]!r}")
        told = f"<p>{clean(text[0], MAX_TEXT)}</p>" if text else ""
        parts.append(f"<h2>{clean(heading)}</h2>{told}<figure>{svg}</figure>")
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f'<meta name="viewport" content="width=device-width"><title>{clean(title)}</title>'
        f"<style>{_STYLE}</style></head>"
        f"<body><h1>{clean(title)}</h1>{''.join(parts)}</body></html>\n"
    )
    if len(page) > MAX_PAGE:
        raise ValueError(f"page of {len(page)} characters, at most {MAX_PAGE} are allowed; draw smaller grids")
    return page
