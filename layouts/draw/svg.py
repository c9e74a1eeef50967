"""An SVG picture under construction: rectangles, lines and texts, all escaped."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

FONT = 11  # pixels
CHARACTER = 0.62 * FONT  # assumed: the width of a monospace character, rounded up
INK, PALE, RULE = "#1b1f24", "#667085", "#98a2b3"
MAX_LABEL = 200  # assumed: characters of one text

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: object, most: int = MAX_LABEL) -> str:
    """Return a text as XML allows it: other characters replaced, long texts cut, markup escaped."""
    shown = str(text)
    shown = shown if len(shown) <= most else shown[: most - 3] + "..."
    return escape(_NOT_XML.sub("\ufffd", shown))


def attribute(text: object) -> str:
    """Return a text as a quoted XML attribute."""
    return quoteattr(_NOT_XML.sub("\ufffd", str(text)[:MAX_LABEL]))


def width_of(text: object) -> float:
    """Return the pixels a text takes."""
    return min(len(str(text)), MAX_LABEL) * CHARACTER


class Picture:
    """Parts of an SVG and the extent they take."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = []
        self.width = 0.0
        self.height = 0.0

    def reach(self, x: float, y: float) -> None:
        """Make the picture large enough for a point."""
        self.width, self.height = max(self.width, x), max(self.height, y)

    def rect(self, x: float, y: float, width: float, height: float, fill: str, edge: str = "#ffffff") -> None:
        """Draw a filled rectangle."""
        self.reach(x + width, y + height)
        size = f'width="{width:g}" height="{height:g}"'
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" {size} fill="{fill}" stroke="{edge}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = RULE, width: float = 1) -> None:
        """Draw a straight line."""
        self.reach(max(x1, x2), max(y1, y2))
        ends = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
        self.parts.append(f'<line {ends} stroke="{colour}" stroke-width="{width:g}"/>')

    def text(self, x: float, y: float, text: object, anchor: str = "start", fill: str = INK, extra: str = "") -> None:
        """Write a text whose baseline starts, is centred (anchor "middle") or ends at a point."""
        room = width_of(text)
        self.reach(x + {"start": room, "middle": room / 2}.get(anchor, 0), y + 4)
        place = f'x="{x:g}" y="{y:g}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
        colour = f' fill="{fill}"' if fill != INK else ""
        self.parts.append(f"<text {place}{colour}{extra}>{clean(text)}</text>")

    def upright(self, x: float, y: float, text: object) -> None:
        """Write a text from a point upwards, turned by a quarter."""
        self.parts.append(f'<text transform="translate({x:g} {y:g}) rotate(-90)">{clean(text)}</text>')

    def cell(self, x: float, y: float, width: float, height: float, fill: str, text: str, hover: str, ink: str) -> None:
        """Draw a rectangle with a text in it, and a text that shows when pointed at."""
        self.parts.append(f"<g><title>{clean(hover)}</title>" if hover else "<g>")
        self.rect(x, y, width, height, fill)
        self.text(x + width / 2, y + height / 2 + FONT * 0.36, text, "middle", ink)
        self.parts.append("</g>")

    def curve(self, x1: float, y1: float, x2: float, y2: float, colour: str, dashed: bool, hover: str) -> None:
        """Draw a smooth line from top to bottom."""
        middle = (y1 + y2) / 2
        path = f"M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}>'
            f"<title>{clean(hover)}</title></path>"
        )
        self.reach(max(x1, x2), max(y1, y2))

    def done(self) -> str:
        """Return the SVG, with the margin around what was drawn."""
        width, height = self.width + 8, self.height + 8
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label={attribute(self.title)} '
            f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{FONT}" fill="{INK}">'
            f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(self.parts)}</svg>'
        )
