"""The normal form of quasi-affine maps over a domain: a constant plus integer multiples of coordinates and quotients.

Middle of the way from a compiler's text to a layout and back.  A remainder is written as a quotient,
``a mod m = a - m * (a floordiv m)``, so that sums of digits cancel where they should; `Space.digits` finds the
digits again for text, bounds and inverses.  Quotients are simplified with what the extents of the domain allow.

Not modelled: a normal form that is unique for every function (two spellings of one map with nested divisors may
differ here; their layouts compare equal all the same, see `layouts.canonical`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import gcd, prod

from layouts.interop.affine import Expression
from layouts.shape import MAX_TEXT, as_int

Terms = tuple[tuple[int, int], ...]  # (atom, coefficient), by atom

MAX_TERMS = 256  # assumed: terms of one value
MAX_ATOMS = 1024  # assumed: coordinates and quotients of one map
MAX_LEVELS = 32  # assumed: quotients nested in one another; real maps have two or three


@dataclass(frozen=True)
class Affine:
    """``constant + sum coefficient * atom``; the atoms belong to a `Space`."""

    constant: int
    terms: Terms = ()

    @cached_property
    def as_dict(self) -> dict[int, int]:
        """The coefficients by atom."""
        return dict(self.terms)


@dataclass(frozen=True)
class Digit:
    """``stride * (argument floordiv low mod extent)``; the top digit of an argument has no extent."""

    argument: Affine
    low: int
    extent: int | None
    stride: int


class Space:
    """The coordinates of a domain, as atoms 0.., and the quotients ``argument floordiv divisor`` made of them."""

    def __init__(self, extents: Sequence[int]) -> None:
        for extent in extents:
            if as_int(extent, "extent") < 1:
                raise ValueError(f"extent {extent} is not allowed, extents are at least 1")
        self.extents = tuple(extents)
        self.quotients: dict[int, tuple[Affine, int]] = {}
        self._atoms: dict[tuple[Affine, int], int] = {}
        self._bounds: dict[Affine, tuple[int, int]] = {}
        self._levels: dict[int, int] = dict.fromkeys(range(len(extents)), 0)
        self._atom_bounds = {k: (0, extent - 1) for k, extent in enumerate(extents)}

    # Building values

    def dim(self, k: int) -> Affine:
        """Return coordinate k."""
        return Affine(0, ((k, 1),)) if self.extents[k] > 1 else Affine(0)

    def index(self) -> Affine:
        """Return the linear index, coordinate 0 fastest."""
        return self.total((self.dim(k), prod(self.extents[:k])) for k in range(len(self.extents)))

    def row_major(self, values: Sequence[Affine], extents: Sequence[int]) -> Affine:
        """Return the offset of the coordinate `values` in a row-major array of `extents`."""
        return self.total((value, prod(extents[k + 1 :])) for k, value in enumerate(values))

    def total(self, parts: Iterable[tuple[Affine, int]]) -> Affine:
        """Return the sum of (value, factor); ValueError beyond 64 bits or MAX_TERMS terms."""
        constant, terms = 0, dict[int, int]()
        for value, factor in parts:
            constant += value.constant * factor
            for atom, coefficient in value.terms:
                terms[atom] = terms.get(atom, 0) + coefficient * factor
            if len(terms) > MAX_TERMS:
                raise ValueError(f"more than {MAX_TERMS} terms in one expression")
        for number in (constant, *terms.values()):
            as_int(number, "coefficient of an expression")
        return Affine(constant, tuple(sorted((atom, c) for atom, c in terms.items() if c)))

    def add(self, a: Affine, b: Affine) -> Affine:
        """Return a + b."""
        return self.total(((a, 1), (b, 1)))

    def scale(self, a: Affine, factor: int) -> Affine:
        """Return a * factor."""
        return self.total(((a, factor),))

    def mod(self, a: Affine, divisor: int) -> Affine:
        """Return ``a - divisor * (a floordiv divisor)``."""
        return self.total(((a, 1), (self.floordiv(a, divisor), -divisor)))

    def floordiv(self, a: Affine, divisor: int) -> Affine:
        """Return the floor of a / divisor; ValueError for divisor 0 and beyond the bounds of a space."""
        if divisor < 0:
            return self.floordiv(self.scale(a, -1), -divisor)
        if divisor == 0:
            raise ValueError("division by 0")
        whole = Affine(a.constant // divisor, tuple((t, c // divisor) for t, c in a.terms if c % divisor == 0))
        rest = Affine(a.constant % divisor, tuple((t, c) for t, c in a.terms if c % divisor))
        low, high = self.bounds(rest)
        if low // divisor == high // divisor:
            return self.add(whole, Affine(low // divisor))
        spread = Affine(0, tuple((t, c // divisor) for t, c in rest.terms if c // divisor))
        left = self.total(((rest, 1), (spread, -divisor)))
        low, high = self.bounds(left)
        if spread.terms and low >= 0 and high < divisor:
            return self.add(whole, spread)
        return self.add(whole, self._quotient(rest, divisor))

    def _quotient(self, rest: Affine, divisor: int) -> Affine:
        """Return rest floordiv divisor as an atom: common factors and a leading sign taken out, quotients joined."""
        common = gcd(divisor, *(c for _, c in rest.terms))
        rest = Affine(rest.constant // common, tuple((t, c // common) for t, c in rest.terms))
        divisor //= common
        if rest.terms[0][1] < 0:  # the floor of -x / m is minus the floor of (x + m - 1) / m
            turned = Affine(divisor - 1 - rest.constant, tuple((t, -c) for t, c in rest.terms))
            return self.scale(self.floordiv(turned, divisor), -1)
        (first, c), *others = rest.terms
        if not others and c == 1 and first in self.quotients:
            inner, below = self.quotients[first]
            return self.floordiv(self.add(inner, Affine(rest.constant * below)), below * divisor)
        return Affine(0, ((self._atom(rest, divisor), 1),))

    def _atom(self, argument: Affine, divisor: int) -> int:
        found = self._atoms.get((argument, divisor))
        if found is not None:
            return found
        atom = len(self._atom_bounds)
        level = 1 + max(self._levels[t] for t, _ in argument.terms)
        if atom >= MAX_ATOMS:
            raise ValueError(f"more than {MAX_ATOMS} coordinates and quotients in one map")
        if level > MAX_LEVELS:
            raise ValueError(f"quotients nest deeper than {MAX_LEVELS} levels")
        low, high = self.bounds(argument)
        self._atoms[argument, divisor] = atom
        self.quotients[atom] = (argument, divisor)
        self._levels[atom] = level
        self._atom_bounds[atom] = (low // divisor, high // divisor)
        return atom

    def read(self, expression: Expression) -> Affine:
        """Return the normal form of an expression of the coordinates."""
        dims = [self.dim(k) for k in range(len(self.extents))]
        return expression.fold(dims, Affine, self._apply)

    def _apply(self, name: str, a: Affine, b: Affine) -> Affine:
        if name == "mul":
            return self.scale(a, b.constant) if not b.terms else self.scale(b, a.constant)
        if name in ("add", "sub"):
            return self.total(((a, 1), (b, 1 if name == "add" else -1)))
        if name == "ceildiv":
            return self.scale(self.floordiv(self.scale(a, -1), b.constant), -1)
        return self.floordiv(a, b.constant) if name == "floordiv" else self.mod(a, b.constant)

    # Looking into values

    def depth(self, atom: int) -> int:
        """Return how deep the quotients of an atom nest, 0 for a coordinate."""
        return self._levels[atom]

    def bounds(self, value: Affine) -> tuple[int, int]:
        """Return a lowest and a highest value, exact for sums of digits of different coordinates."""
        if value not in self._bounds:
            direct = self._interval((c, *self._atom_bounds[t]) for t, c in value.terms)
            digits, constant = self.digits(value)
            by_digit = self._interval((digit.stride, *self._of_digit(digit, value)) for digit in digits)
            self._bounds[value] = (
                max(direct[0] + value.constant, by_digit[0] + constant),
                min(direct[1] + value.constant, by_digit[1] + constant),
            )
        return self._bounds[value]

    @staticmethod
    def _interval(parts: Iterable[tuple[int, int, int]]) -> tuple[int, int]:
        low = high = 0
        for factor, least, most in parts:
            low += factor * (least if factor > 0 else most)
            high += factor * (most if factor > 0 else least)
        return low, high

    def _of_digit(self, digit: Digit, whole: Affine) -> tuple[int, int]:
        if digit.extent is not None:
            return 0, digit.extent - 1
        argument = digit.argument
        if argument == whole:  # its own bounds are being looked for
            low, high = self._interval((c, *self._atom_bounds[t]) for t, c in argument.terms)
            low, high = low + argument.constant, high + argument.constant
        else:
            low, high = self.bounds(argument)
        return low // digit.low, high // digit.low

    def digits(self, value: Affine) -> tuple[list[Digit], int]:
        """Return the value as a sum of digits and a constant, the quotients of one argument brought together."""
        coefficients, constant = dict(value.terms), value.constant
        groups: dict[Affine, dict[int, int]] = {}
        for atom in sorted(coefficients, reverse=True):
            if atom in self.quotients and coefficients.get(atom):
                argument, divisor = self.quotients[atom]
                groups.setdefault(argument, {})[divisor] = coefficients.pop(atom)
                if len(argument.terms) > 1 or argument.terms[0][1] != 1 or argument.constant:
                    constant -= self._take_whole(coefficients, argument, groups[argument]) * argument.constant
        for atom, coefficient in coefficients.items():
            if coefficient:
                groups.setdefault(Affine(0, ((atom, 1),)), {})[1] = coefficient
        return [digit for argument, steps in groups.items() for digit in _group_digits(argument, steps)], constant

    @staticmethod
    def _take_whole(coefficients: dict[int, int], argument: Affine, steps: dict[int, int]) -> int:
        """Move a multiple of `argument` from the coefficients to its group if all its terms are there; return it."""
        ratios = {divmod(coefficients.get(t, 0), c) for t, c in argument.terms}
        (factor, rest), *others = ratios
        smallest = min(steps)
        plain = argument.constant and steps[smallest] != -factor * smallest
        if others or rest or not factor or 1 in steps or plain:
            return 0
        for t, c in argument.terms:
            coefficients[t] -= factor * c
        steps[1] = factor
        return factor

    def text(self, value: Affine, names: Sequence[str], python: bool) -> str:
        """Return the value in the syntax of MLIR or of Python, the largest strides first."""
        return _Writer(self, names, python).value(value)


def _group_digits(argument: Affine, steps: dict[int, int]) -> list[Digit]:
    """Return the digits of ``sum c * (argument floordiv low)``, the lowest first."""
    lows = sorted(steps)
    if any(above % below for below, above in pairwise(lows)):
        return [Digit(argument, low, None, steps[low]) for low in lows]
    found: list[Digit] = []
    carried = 0
    for low, above in zip(lows, [*lows[1:], None], strict=True):
        stride = steps[low] + carried
        extent = above // low if above is not None else None
        carried = stride * extent if extent is not None else 0
        if stride:
            found.append(Digit(argument, low, extent, stride))
    return found


class _Writer:
    """Text of values; every argument is written once."""

    def __init__(self, space: Space, names: Sequence[str], python: bool) -> None:
        self.space = space
        self.names = names
        self.python = python
        self.div, self.mod = ("//", "%") if python else ("floordiv", "mod")
        self.arguments: dict[Affine, str] = {}

    def value(self, value: Affine) -> str:
        digits, constant = self.space.digits(value)
        digits.sort(key=lambda digit: (-abs(digit.stride), digit.argument.terms[0], -digit.low))
        text = ""
        for digit in digits:
            negative = digit.stride < 0
            factor = -digit.stride if negative and text else digit.stride
            term = self.digit(digit)
            if factor != 1:
                term = f"{term if self.python or ' ' not in term else f'({term})'} * {factor}"
            text += (" - " if negative else " + ") * bool(text) + term
            if len(text) > MAX_TEXT:
                raise ValueError(f"the expression has more than {MAX_TEXT} characters")
        if constant or not text:
            text += f" {'-' if constant < 0 else '+'} {abs(constant)}" if text else str(constant)
        return text

    def digit(self, digit: Digit) -> str:
        """Return a digit without its stride, remainder first: ``d0 mod 8 floordiv 2``."""
        name = self._argument(digit.argument)
        text = name
        if digit.extent is not None:
            text = f"{name} {self.mod} {digit.extent * digit.low}"
        if digit.low == 1:
            return text
        if digit.extent is None and digit.argument.constant == digit.low - 1 and not self.python:
            bare = Affine(0, digit.argument.terms)
            return f"{self._argument(bare)} ceildiv {digit.low}"
        return f"{text if self.python or text == name else f'({text})'} {self.div} {digit.low}"

    def _argument(self, argument: Affine) -> str:
        if argument not in self.arguments:
            (atom, c), *others = argument.terms
            if not others and c == 1 and not argument.constant and atom not in self.space.quotients:
                self.arguments[argument] = self.names[atom]
            else:
                self.arguments[argument] = f"({self.value(argument)})"
        return self.arguments[argument]
