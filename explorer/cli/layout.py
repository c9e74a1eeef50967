"""The command `layout`: one layout explained, translated, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explorer.files import require_place, write_atomically
from explorer.text.json_text import Json, print_json


def layout(
    text: Annotated[str, typer.Argument(help="A layout in CuTe's, Triton's, XLA's, MLIR's or TVM's words.")],
    to: Annotated[
        str | None, typer.Option("--as", help="Write it for another system: cute, triton, xla, mlir, tvm.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Extents, as in 64,64, where the text has none.")] = None,
    conflicts: Annotated[
        str | None, typer.Option(help="Bank conflicts of an access: 'vector=1:8 lanes=0:4+1:2 banks=32x4'.")
    ] = None,
    draw: Annotated[Path | None, typer.Option(help="Write a page with pictures of it.")] = None,
    element_bytes: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Bytes of an element.  [default: the text's type, else 2]")
    ] = None,
    machine: Annotated[str | None, typer.Option(help="Draw it over the address map of this machine too.")] = None,
    as_json: Json = False,
) -> None:
    """Explain, translate or draw a layout; count its bank conflicts."""
    from explorer.text import layout as layout_view

    if machine is not None and draw is None:
        raise ValueError("--machine: says whose address map is drawn; give --draw too")
    if draw is not None:
        require_place(draw, "--draw")
    named = layout_view.element_of(text)
    width = element_bytes or (named[1] if named is not None else 2)
    found, facts = layout_view.facts_of(text, layout_view.extents(shape) if shape is not None else None)
    if to is not None:
        facts["as"] = layout_view.spelt(found, to, named[0] if named is not None and element_bytes is None else width)
    if conflicts is not None:
        facts["conflicts"] = layout_view.conflicts_of(found, conflicts, width)
    if draw is not None:
        page = layout_view.page_of(found, text, width, machine, conflicts)
        write_atomically(draw, page.encode())
        facts["page"] = str(draw)
    if as_json:
        print_json(facts)
    elif to is not None and conflicts is None and draw is None:
        print(facts["as"])
    else:
        print(layout_view.text_of(facts))
