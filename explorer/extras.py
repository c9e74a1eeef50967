"""How to install what a command needs beyond the project itself: one of its extras, in a clone of it."""

from __future__ import annotations


def missing(where: str, package: str, extra: str) -> ValueError:
    """Return the error that `where` needs a package which the extra brings."""
    return ValueError(f"{where}: needs {package}: pip install -e '.[{extra}]' in the clone of rowhit")
