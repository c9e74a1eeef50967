"""A constraint of a study: one comparison of what is known of a point before it runs, `page_size <= tile`.

It stands between `knobs` and `space`, which counts the combinations that break one. A text is read word by word: a
column, an operator, a column or a value; nothing of it is ever evaluated. Columns are the knobs, fixed ones and
defaults of the kernel included, numbers of the machine that the study sets (`machine.PATH`), and what the machine
costs (`sram_capacity_bytes`, `hbm_stacks`). There is no arithmetic; `divides` is there for alignment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from explorer.names import unknown
from explorer.query import Scalar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Columns = Mapping[str, NDArray[Any]]

MAX_TEXT = 200  # assumed: characters of a constraint
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", re.ASCII)
_WORDS = re.compile(r"\s*('[^']*'|\"[^\"]*\"|<=|>=|==|!=|<|>|[^\s<>=!'\"]+)", re.ASCII)


def _divides(left: Any, right: Any) -> Any:
    import numpy as np

    return (left != 0) & (np.remainder(right, np.where(left == 0, 1, left)) == 0)


BROKEN = "constraint "  # how the reason begins why a combination that breaks one cannot run
OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "divides": _divides,
}
_OF_TEXTS = ("==", "!=")


@dataclass(frozen=True)
class Column:
    """A side of a comparison that is looked up by its name."""

    name: str


@dataclass(frozen=True)
class Constraint:
    """`left operator right`; `text` is what the study says."""

    text: str
    left: Column | Scalar
    operator: str
    right: Column | Scalar

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        return tuple(side.name for side in (self.left, self.right) if isinstance(side, Column))

    def check(self, columns: Mapping[str, Scalar]) -> None:
        """Raise ValueError for a column that is not among `columns`, or a comparison of a text with a number."""
        for name in self.names:
            if name not in columns:
                raise ValueError(f"{self.text!r}: {unknown('column', name, columns)}")
        sides = [columns[s.name] if isinstance(s, Column) else s for s in (self.left, self.right)]
        texts = [isinstance(side, str) for side in sides]
        if any(texts) and (self.operator not in _OF_TEXTS or not all(texts)):
            raise ValueError(f"{self.text!r}: a text is compared by == or != with a text, a number with a number")

    def holds(self, columns: Columns) -> NDArray[np.bool_]:
        """Return for every row of `columns`, equally long arrays by name, whether it holds."""
        import numpy as np

        left, right = (columns[s.name] if isinstance(s, Column) else s for s in (self.left, self.right))
        return np.asarray(OPERATORS[self.operator](left, right), np.bool_)


def parse_constraint(text: str) -> Constraint:
    """Read one comparison; ValueError quotes it and says what is allowed."""
    shown = repr(text if len(text) <= 80 else text[:77] + "...")
    if len(text) > MAX_TEXT:
        raise ValueError(f"{shown}: {len(text)} characters, at most {MAX_TEXT} are allowed")
    words, end = [], 0
    while end < len(text.rstrip()):
        match = _WORDS.match(text, end)
        if match is None:
            raise ValueError(f"{shown}: {text[end:].strip()[:20]!r} is no name, number or operator")
        words.append(match[1])
        end = match.end()
    if len(words) != 3 or words[1] not in OPERATORS:
        allowed = ", ".join(OPERATORS)
        raise ValueError(f"{shown}: allowed: a column, one of {allowed}, and a column or a value: page_size <= tile")
    left, right = (_side(word, shown) for word in (words[0], words[2]))
    found = Constraint(" ".join(words), left, words[1], right)
    if not found.names:
        raise ValueError(f"{shown}: compares no column")
    return found


def _side(word: str, shown: str) -> Column | Scalar:
    if word[0] in "'\"":
        return word[1:-1]
    if _NUMBER.fullmatch(word):
        return float(word) if "." in word else int(word)
    if word in ("true", "false"):
        return word == "true"
    if _NAME.fullmatch(word):
        return Column(word)
    raise ValueError(f"{shown}: {word[:20]!r} is no name, number or text in quotes")


def parse_constraints(texts: Iterable[str]) -> tuple[Constraint, ...]:
    """Read all constraints of a study."""
    return tuple(parse_constraint(text) for text in texts)
