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
_MOST_VALUES = 1 << 22  # assumed: values looked at for the facts of one layout, about a second
_ELEMENT = re.compile(r"(?:(?<![A-Za-z0-9_])|(?<=x))((?:bf|f|[sui])(8|16|32|64))(?![A-Za-z0-9_])")
_PAIR = re.compile(r"([0-9]{1,3}):([0-9]{1,9})")
_BANKS = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")


def facts_of(text: str, shape: Sequence[int] | None = None) -> tuple[Layout | NamedLayout, dict[str, Any]]:
    """Return a layout read in any dialect, and what can be said of it by name.

    ValueError with the position in the text and what was expected there.
    """
    from layouts.analysis import is_injective
    from layouts.explain import explain
    from layouts.floor_form import separate
    from layouts.interop import dialect_of, read

    layout = read(text, shape)
    bare = _bare(layout)
    facts: dict[str, Any] = {"dialect": dialect_of(text), "layout": str(bare), "size": bare.size}
    quick = bare.size * (len(bare.stages) + 1) <= _MOST_VALUES or bare.is_f2 or separate(bare) is not None
    quick = quick or not (bare.stages or bare.has_xor)
    if bare.axes is None:
        facts["cosize"] = bare.cosize if quick else None
    else:
        facts["axes"] = list(bare.axes)
    try:
        injective = is_injective(bare) if quick else None
    except ValueError:  # too large to look at, and no closed form
        injective = None
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
            lines.append(f"{name.replace('_', ' ')}: {'not decided' if value is None else value}")
    return "\n".join(lines)


def extents(text: str) -> tuple[int, ...]:
    """Return the extents of a tensor from text such as ``64,64``."""
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdigit() and len(part) <= 12 for part in parts) or len(parts) > 32:
        raise ValueError(f"--shape {text[:80]!r}: expected extents such as 64,64")
    return tuple(map(int, parts))


def element_of(text: str) -> tuple[str, int] | None:
    """Return the element type that a text names, as XLA and MLIR write it, and its bytes; None where it names none."""
    from layouts.interop import dialect_of

    found = _ELEMENT.search(text) if dialect_of(text) in ("xla", "mlir", "triton") else None
    return (found[1], max(1, int(found[2]) // 8)) if found is not None else None


def spelt(layout: Layout | NamedLayout, dialect: str, element: str | int) -> str:
    """Return the layout in the words of another system, its elements a type or a number of bytes.

    ValueError names the stage that the system cannot express.
    """
    from layouts.interop import write

    return write(layout, dialect, element)


def conflicts_of(layout: Layout | NamedLayout, text: str, element_bytes: int) -> dict[str, Any]:
    """Return what an access costs in wavefronts (cycles of one phase), from its text.

    ``vector=1:8 lanes=0:8 banks=32x4 element=2``: a lane takes 8 elements along dimension 1, 8 lanes lie along
    dimension 0, 32 banks of 4 bytes, elements of 2 bytes (`element_bytes` where the text does not say); several parts
    of the lanes are joined by ``+``, fastest first.
    ValueError names the word that is wrong.
    """
    from layouts.analysis import bank_conflicts

    access, banks, element = _access(layout, text, element_bytes)
    found = bank_conflicts(_bare(layout), access, banks, element)
    return {
        "access": text,
        "element_bytes": element,
        "phases": found.phases,
        "wavefronts": found.wavefronts,
        "worst_phase": found.degree,
        "least_per_phase": _least(_bare(layout), access, banks, element),
        "found_by": found.form,
    }


def _least(layout: Layout, access: Access, banks: Banks, element: int) -> int:
    """Return a number of wavefronts that no phase can do with less of, in any layout with offsets as distinct."""
    from layouts.analysis import is_injective

    try:
        distinct = is_injective(layout)
    except ValueError:  # not decided
        distinct = False
    # Elements that share an offset are read together: then nothing but the one wavefront is certain.
    return -(-access.elements * element // (banks.count * banks.width_bytes)) if distinct else 1


def _access(layout: Layout | NamedLayout, text: str, element_bytes: int) -> tuple[Access, Banks, int]:
    from layouts.analysis import Access, Banks

    words = _words(text)
    count, width = _matched(_BANKS, words.get("banks", "32x4"), "banks", "32x4 (32 banks of 4 bytes)")
    vector = _matched(_PAIR, words.get("vector", "0:1"), "vector", "dimension:elements")
    parts = [part for part in words.get("lanes", "").split("+") if part]
    if not parts:
        raise ValueError(
            f"conflicts {text!r}: lanes is missing, as in lanes=0:8 or lanes=0:4+1:8 (dimension:lanes, fastest first)"
        )
    lanes = [_matched(_PAIR, part, "lanes", "dimension:lanes") for part in parts]
    element = words.get("element", str(element_bytes))
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
    banks = None
    if access is not None:
        _, banks, element_bytes = _access(layout, access, element_bytes)
    count, width = (banks.count, banks.width_bytes) if banks is not None else (32, 4)
    scalar = bare.axes is None
    colouring = by_bank(element_bytes, width, count) if scalar else None
    sections = [(f"By SRAM bank, {count} of {width} bytes" if scalar else "Values", grid_svg(layout, colouring))]
    if scalar and bare.is_f2:
        sections.append(("Bit matrix", bits_svg(layout)))
    if access is not None:
        sections.append(("Wavefronts per phase", heat_svg(wavefronts_of(layout, access, element_bytes))))
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


def wavefronts_of(layout: Layout | NamedLayout, text: str, element_bytes: int) -> list[int]:
    """Return the wavefronts of each phase of an access, for at most 4096 whole phases."""
    import numpy as np

    access, banks, element = _access(layout, text, element_bytes)
    phases = min(access.index.size // access.elements, 4096)
    offsets = _bare(layout).offsets(access.index.offsets(np.arange(phases * access.elements)))
    first = np.asarray(offsets).reshape(phases, -1) * element
    spread = np.arange(0, element + banks.width_bytes - 1, banks.width_bytes).clip(max=element - 1)
    words = (first[:, :, None] + spread).reshape(phases, -1) // banks.width_bytes
    return [int(np.bincount(np.unique(row) % banks.count).max()) for row in words]


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
        if name in words:
            raise ValueError(f"conflicts: {name} is given twice; parts of the lanes are joined by +, as in 0:4+1:8")
        words[name] = value
    return words


def _matched(pattern: re.Pattern[str], text: str, name: str, allowed: str) -> tuple[int, int]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"conflicts: {name}={text}: expected {allowed}")
    return int(found[1]), int(found[2])
