"""One layout, asked from the command line: what it is, how other systems write it, what an access costs, a picture.

Stands beside the searches: text in, facts and pages out; algebra, analyses and pictures are those of `layouts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from explorer.names import unknown

if TYPE_CHECKING:
    from layouts.analysis import Access, Banks
    from layouts.layout import Layout
    from layouts.notation import NamedLayout

_ACCESS_WORDS = ("vector", "lanes", "banks", "element")
_PAIR = re.compile(r"([0-9]{1,3}):([0-9]{1,9})")
_BANKS = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")


def facts_of(text: str, shape: Sequence[int] | None = None) -> tuple[Layout | NamedLayout, dict[str, Any]]:
    """Return a layout read in any dialect, and what can be said of it by name.

    ValueError with the position in the text and what was expected there.
    """
    from layouts.analysis import is_injective
    from layouts.explain import explain
    from layouts.interop import dialect_of, read

    layout = read(text, shape)
    bare = _bare(layout)
    facts: dict[str, Any] = {"dialect": dialect_of(text), "layout": str(bare), "size": bare.size}
    if bare.axes is None:
        facts["cosize"] = bare.cosize
    else:
        facts["axes"] = list(bare.axes)
    try:
        injective: bool | str = is_injective(bare)
    except ValueError:  # too large to look at, and no closed form
        injective = "undecided"
    facts |= {"injective": injective, "f2_linear": bare.is_f2, "explained": explain(layout).splitlines()}
    return layout, facts


def text_of(facts: Mapping[str, Any]) -> str:
    """Return the facts as text for a terminal: the explanation first, then a line each."""
    lines = list(facts["explained"])
    for name, value in facts.items():
        if name == "conflicts":
            each = f"{value['worst_phase']} in the worst phase, at least {value['least_per_phase']} in any"
            lines.append(f"bank conflicts: {value['wavefronts']:,} wavefronts in {value['phases']:,} phases, {each}")
        elif name not in ("explained", "layout"):
            lines.append(f"{name.replace('_', ' ')}: {value}")
    return "\n".join(lines)


def extents(text: str) -> tuple[int, ...]:
    """Return the extents of a tensor from text such as ``64,64``."""
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdigit() and len(part) <= 12 for part in parts) or len(parts) > 32:
        raise ValueError(f"--shape {text[:80]!r}: expected extents such as 64,64")
    return tuple(map(int, parts))


def spelt(layout: Layout | NamedLayout, dialect: str, element_bytes: int) -> str:
    """Return the layout in the words of another system; ValueError names the stage it cannot express."""
    from layouts.interop import write

    return write(layout, dialect, element_bytes)


def conflicts_of(layout: Layout | NamedLayout, text: str) -> dict[str, Any]:
    """Return what an access costs in wavefronts (cycles of one phase), from its text.

    ``vector=1:8 lanes=0:8 banks=32x4 element=2``: a lane takes 8 elements along dimension 1, 8 lanes lie along
    dimension 0, 32 banks of 4 bytes, elements of 2 bytes; several lanes parts are joined by ``+``, fastest first.
    ValueError names the word that is wrong.
    """
    from layouts.analysis import bank_conflicts

    access, banks, element = _access(layout, text)
    found = bank_conflicts(_bare(layout), access, banks, element)
    return {
        "access": text,
        "phases": found.phases,
        "wavefronts": found.wavefronts,
        "worst_phase": found.degree,
        "least_per_phase": -(-access.elements * element // (banks.count * banks.width_bytes)),
        "found_by": found.form,
    }


def _access(layout: Layout | NamedLayout, text: str) -> tuple[Access, Banks, int]:
    from layouts.analysis import Access, Banks

    words = _words(text)
    count, width = _matched(_BANKS, words.get("banks", "32x4"), "banks", "32x4 (32 banks of 4 bytes)")
    vector = _matched(_PAIR, words.get("vector", "0:1"), "vector", "dimension:elements")
    parts = [part for part in words.get("lanes", "").split("+") if part]
    if not parts:
        raise ValueError(f"conflicts {text!r}: lanes is missing, as in lanes=0:8 (8 lanes along dimension 0)")
    lanes = [_matched(_PAIR, part, "lanes", "dimension:lanes") for part in parts]
    element = words.get("element", "2")
    if not element.isdigit() or not 0 < int(element) < 2**16:
        raise ValueError(f"conflicts: element={element}: the bytes of an element are a whole number from 1 on")
    bare = _bare(layout)
    shape = [bare.mode(k).size for k in range(bare.rank)]
    return Access.of_tile(shape, vector, lanes), Banks(count, width), int(element)


def page_of(
    layout: Layout | NamedLayout, title: str, element_bytes: int, machine: str | None = None, access: str | None = None
) -> str:
    """Return an HTML page that opens offline: the grid coloured by bank, the bit matrix, the DRAM stripes.

    With `machine` the grid is drawn by channel and by bank of its memory too, and the stripe diagram shows which bit
    of a coordinate feeds which field of the address map; with `access` the heat map of its wavefronts is added.
    """
    from layouts.draw import bits_svg, by_bank, by_field, grid_svg, heat_svg, html_page, stripes_svg

    bare = _bare(layout)
    scalar = bare.axes is None
    sections = [("By SRAM bank" if scalar else "Values", grid_svg(layout, by_bank(element_bytes) if scalar else None))]
    if bare.is_f2:
        sections.append(("Bit matrix", bits_svg(layout)))
    if access is not None:
        sections.append(("Wavefronts per phase", heat_svg(wavefronts_of(layout, access))))
    if machine is not None:
        address_map = _address_map(machine)
        for fields in (("stack", "channel", "pseudo_channel"), ("bank_group", "bank"), ("row",)):
            heading = f"By {' and '.join(fields)} of {machine}".replace("_", " ")
            sections.append((heading, grid_svg(layout, by_field(address_map, fields, element_bytes))))
        sections.append((f"Bits of the address map of {machine}", stripes_svg(layout, address_map, element_bytes)))
    return html_page(title, sections)


def _address_map(machine: str) -> Any:
    from hwmodel.machine import Machine
    from hwmodel.spec import load_machine

    return Machine(load_machine(machine)).address_map


def wavefronts_of(layout: Layout | NamedLayout, text: str) -> list[int]:
    """Return the wavefronts of each phase of an access, for at most 4096 phases."""
    from layouts.analysis import Access, bank_conflicts

    access, banks, element = _access(layout, text)
    phases = min(access.index.size // access.elements, 4096)
    indices = access.index.table()[: phases * access.elements].reshape(phases, -1).tolist()
    degrees = []
    for row in indices:
        one = Access(row, access.vector, access.lanes)
        degrees.append(bank_conflicts(_bare(layout), one, banks, element).degree)
    return degrees


def _bare(layout: Layout | NamedLayout) -> Layout:
    """Return the layout without the names of its axes."""
    from layouts.notation import NamedLayout

    return layout.layout if isinstance(layout, NamedLayout) else layout


def _words(text: str) -> Mapping[str, str]:
    words: dict[str, str] = {}
    for word in text.replace(",", " ").split():
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"conflicts {word!r}: expected name=value, names are {', '.join(_ACCESS_WORDS)}")
        if name not in _ACCESS_WORDS:
            raise ValueError(f"conflicts: {unknown('word', name, _ACCESS_WORDS)}")
        words[name] = value
    return words


def _matched(pattern: re.Pattern[str], text: str, name: str, allowed: str) -> tuple[int, int]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"conflicts: {name}={text}: expected {allowed}")
    return int(found[1]), int(found[2])
