"""The command that asks about runs that were saved: `compare`; `run --save` saves them, `explain` reads one too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explorer.text.json_text import Json, print_json


def compare(
    a: Annotated[Path, typer.Argument(help="What `rowhit run --save` wrote.")],
    b: Annotated[Path, typer.Argument(help="Another such file.")],
    as_json: Json = False,
) -> None:
    """Say why run B takes longer or shorter than run A. Prints every number that differs."""
    from explorer.compare import compare as compared
    from explorer.text import compare as compare_view
    from hwmodel.saving import load

    found = compared(load(a), load(b))
    if as_json:
        print_json(found.record())
    else:
        print(compare_view.comparison_text(found))
