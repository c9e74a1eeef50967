"""Quasi-affine expressions as compilers write them: ``(d0 floordiv 16) * 8 + d1 mod 4``, ``i // 16 * 8 + j % 4``.

First link of the MLIR, XLA and TVM dialects: text becomes an `Expression`, which `layouts.interop.quasi_affine`
brings into a normal form over a domain and `layouts.interop.affine_chain` turns into a `Layout`, and back.
Division and remainder are those of the floor, also of negative values: ``-1 floordiv 4`` is -1, ``-1 mod 4`` is 3.

Not modelled: symbols, products and quotients of two variables, truncating division, comparisons and XOR; all
of them are refused.  Reading is one pass with a stack of its own, bounded in length and depth.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from layouts.notation import nearest_first
from layouts.shape import MAX_TEXT, as_int
from layouts.text import Reader

V = TypeVar("V")

MAX_PARENTHESES = 64  # assumed: compilers print less than ten
MAX_CODE = 4096  # assumed: operands and operators of one expression

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "ceildiv": lambda a, b: -(-a // b),
    "mod": operator.mod,
}
_SUMS = ("add", "sub")


@dataclass(frozen=True)
class Syntax:
    """How a dialect spells expressions: operators, casts that may stand before '(', and if divisors may be negative."""

    operators: dict[str, str]
    casts: re.Pattern[str] | None
    negative_divisors: bool

    @property
    def token(self) -> re.Pattern[str]:
        """Match one operator of this dialect."""
        words = sorted(self.operators, key=len, reverse=True)
        return re.compile("|".join(re.escape(word) + (r"\b" if word.isalpha() else "") for word in words))


MLIR = Syntax(
    {"+": "add", "-": "sub", "*": "mul", "floordiv": "floordiv", "ceildiv": "ceildiv", "mod": "mod"}, None, False
)
PYTHON = Syntax(
    {"+": "add", "-": "sub", "*": "mul", "//": "floordiv", "%": "mod"},
    re.compile(r"T\s*\.\s*u?int(?:8|16|32|64)\s*(?=\()"),
    True,
)

_NUMBER = re.compile(r"[0-9]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]*")


@dataclass(frozen=True)
class Expression:
    """An integer expression of `dims` variables as a program for a stack machine.

    An instruction is ("dim", number), ("int", value) or (operation, 0) with the names of `OPERATIONS`.
    """

    code: tuple[tuple[str, int], ...]
    dims: int

    def fold(self, dims: Sequence[V], constant: Callable[[int], V], apply: Callable[[str, V, V], V]) -> V:
        """Return the value of the expression in any algebra: of intervals, of arrays, of normal forms."""
        stack: list[V] = []
        for name, number in self.code:
            if name == "dim":
                stack.append(dims[number])
            elif name == "int":
                stack.append(constant(number))
            else:
                right = stack.pop()
                stack.append(apply(name, stack.pop(), right))
        return stack[0]

    def __call__(self, *dims: Any) -> Any:
        """Return the value at integers or integer arrays, one per variable."""
        if len(dims) != self.dims:
            raise ValueError(f"{len(dims)} values for an expression of {self.dims} variables")
        return self.fold(dims, lambda value: value, lambda name, a, b: OPERATIONS[name](a, b))

    def bounds(self, extents: Sequence[int]) -> tuple[int, int]:
        """Return the lowest and highest value that interval arithmetic allows for variables in 0..extent-1."""
        intervals = [(0, extent - 1) for extent in extents]
        return self.fold(intervals, lambda value: (value, value), _of_intervals)


def _of_intervals(name: str, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Return the bounds of an operation; a remainder is taken to reach every value below its divisor."""
    if name == "mod":
        return (0, b[0] - 1) if b[0] > 0 else (b[0] + 1, 0)
    if name == "sub":
        return a[0] - b[1], a[1] - b[0]
    if name == "add":
        return a[0] + b[0], a[1] + b[1]
    found = [OPERATIONS[name](x, y) for x in a for y in b]
    return min(found), max(found)


def read_expression(reader: Reader, names: Sequence[str], syntax: Syntax) -> Expression:
    """Read one expression, up to a ',', a closing bracket or the end.

    ValueError gives the position: an unknown name, a product or quotient that is not affine, a divisor that is not
    positive (TVM: that is 0), more than MAX_CODE parts or MAX_PARENTHESES levels.
    """
    return _Parser(reader, names, syntax).read()


class _Parser:
    """One expression on the way from infix to postfix; `constants` holds the value of each operand if it is known."""

    def __init__(self, reader: Reader, names: Sequence[str], syntax: Syntax) -> None:
        self.reader = reader
        self.names = {name: place for place, name in enumerate(names)}
        self.syntax = syntax
        self.token = syntax.token
        self.code: list[tuple[str, int]] = []
        self.constants: list[int | None] = []
        self.waiting: list[tuple[str, int]] = []  # operators, "neg" and "(" with their positions
        self.depth = 0

    def read(self) -> Expression:
        """Read operands and operators in turn."""
        while True:
            self._operand()
            self._close()
            found = self.reader.match(self.token)
            if found is None:
                break
            name = self.syntax.operators[found[0]]
            self._apply_while(lambda waiting, name=name: waiting not in _SUMS or name in _SUMS)  # type: ignore[misc]
            self.waiting.append((name, found.start()))
        if self.depth:
            raise self.reader.error("expected an operator or ')'")
        self._apply_while(lambda waiting: True)
        return Expression(tuple(self.code), len(self.names))

    def _operand(self) -> None:
        """Read signs, opening parentheses and then a number or a name."""
        while True:
            if self.syntax.casts:
                self.reader.match(self.syntax.casts)
            self.reader.space()
            position = self.reader.position
            if self.reader.take("("):
                self.depth += 1
                if self.depth > MAX_PARENTHESES:
                    raise ValueError(f"at position {position}: parentheses nest deeper than {MAX_PARENTHESES} levels")
                self.waiting.append(("(", position))
            elif self.reader.take("-"):
                if len(self.waiting) > MAX_CODE:
                    raise ValueError(f"at position {position}: more than {MAX_CODE} operators in one expression")
                self.waiting.append(("neg", position))
            else:
                break
        if _NUMBER.match(self.reader.text, self.reader.position):
            self._push("int", self.reader.integer())
        elif name := self.reader.match(_NAME):
            if name[0] not in self.names:
                allowed = nearest_first(name[0], self.names, 8)[:120] or "none"
                raise ValueError(f"at position {name.start()}: unknown name {name[0][:40]!r}, allowed are {allowed}")
            self._push("dim", self.names[name[0]])
        else:
            raise self.reader.error("expected a number, a name, '-' or '('")
        self._negate()

    def _close(self) -> None:
        """Read closing parentheses that belong to this expression."""
        while self.depth and self.reader.take(")"):
            self._apply_while(lambda waiting: True)
            self.waiting.pop()
            self.depth -= 1
            self._negate()

    def _negate(self) -> None:
        """Apply the signs in front of the operand just read: they bind tightest."""
        while self.waiting and self.waiting[-1][0] == "neg":
            _, position = self.waiting.pop()
            self._push("int", -1)
            self._apply("mul", position)

    def _apply_while(self, wanted: Callable[[str], bool]) -> None:
        while self.waiting and self.waiting[-1][0] != "(" and wanted(self.waiting[-1][0]):
            self._apply(*self.waiting.pop())

    def _push(self, name: str, number: int) -> None:
        if len(self.code) >= MAX_CODE:
            raise ValueError(f"at position {self.reader.position}: more than {MAX_CODE} parts in one expression")
        self.code.append((name, number))
        self.constants.append(number if name == "int" else None)

    def _apply(self, name: str, position: int) -> None:
        right = self.constants.pop()
        left = self.constants.pop()
        where = f"at position {position}"
        if name == "mul" and left is None and right is None:
            raise ValueError(f"{where}: a product of two variables is not affine, one factor must be a number")
        if name not in ("add", "sub", "mul"):
            self._check_divisor(right, where)
        if left is not None and right is not None:
            value = as_int(OPERATIONS[name](left, right), where)
            self.code[-2:] = [("int", value)]
            self.constants.append(value)
        else:
            self.code.append((name, 0))
            self.constants.append(None)

    def _check_divisor(self, divisor: int | None, where: str) -> None:
        if divisor is None:
            raise ValueError(f"{where}: a division by a variable is not affine, the divisor must be a number")
        if divisor == 0 or (divisor < 0 and not self.syntax.negative_divisors):
            raise ValueError(f"{where}: the divisor {divisor} is not allowed, it must be positive")


def check_length(text: str, what: str) -> None:
    """Raise ValueError for a text longer than any of a dialect."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"{what}: {len(text)} characters, at most {MAX_TEXT} are allowed")


def in_text(text: str, what: str, error: ValueError) -> ValueError:
    """Return `error` with the start of the text it was found in."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return ValueError(f"{what} {shown!r}: {error}")
