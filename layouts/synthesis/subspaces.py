"""Which subspace K of F2^n costs banked accesses the least: the search behind `layouts.synthesis`.

What an access costs depends on the kernel K of the bank projection alone: a phase that asks for the words of a space
V is served in 2^dim(V ∩ K) cycles.  So K is searched, not the matrix, one vector after the other: with v in K, all
goes on in the quotient by v.  Two states of the search are the same if a linear map takes one to the other.  Up to
three spaces that is decided by nine dimensions, because three subspaces are sums of nine kinds of pieces (the roots
of D4: a line in any of the eight selections of spaces, and a plane that meets the three in three different lines);
a vector to try next is then one per kind of piece.  With more spaces states are only the same if they are equal,
and every vector is tried.

The first `free` vectors cost nothing: they pick which elements share a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypeAlias

from layouts.f2 import Columns, apply, image_basis, kernel_basis, rank, solve

Basis: TypeAlias = Columns  # reduced, ascending: equal exactly for equal spaces

MAX_STATES = 20_000  # assumed: vectors tried before a search is given up, some seconds


@dataclass(frozen=True, order=True)
class Demand:
    """The words that a phase asks for, and the cycles it costs while K does not meet them."""

    space: Basis
    cycles: int

    def least(self, bank_bits: int, free: int) -> int:
        """Return a lower bound of the cycles: in one of them banks deliver 2^bank_bits words at most."""
        return self.cycles << max(0, len(self.space) - free - bank_bits)

    def modulo(self, vector: int, is_free: bool) -> Demand:
        """Return the demand with `vector` in K: twice the cycles if it is one of the words."""
        doubled = not is_free and contains(self.space, vector)
        return Demand(quotient(self.space, vector), self.cycles << doubled)


@dataclass(frozen=True)
class Found:
    """The best K: `shared` spans what shares a word, `kernel` the rest of K.

    `complete` if every K was looked at, up to symmetry, or need not be.
    """

    cycles: int
    shared: tuple[int, ...]
    kernel: tuple[int, ...]
    complete: bool
    states: int


def least_cycles(
    demands: Sequence[Demand], bank_bits: int, free: int = 0, apart: Basis = (), most_states: int = MAX_STATES
) -> Found:
    """Return the K, of codimension `bank_bits` in the sum of the spaces, with the fewest cycles of all demands.

    `apart` is a space that K may not meet.
    """
    target = sum(demand.least(bank_bits, free) for demand in demands)
    search = _Search(bank_bits, most_states, target)
    found = search.run(demands, free, ())
    if apart and intersection(image_basis([*found.shared, *found.kernel]), apart):
        search = _Search(bank_bits, most_states, target)
        found = search.run(demands, free, apart)
    return found


def intersection(a: Basis, b: Basis) -> Basis:
    """Return the intersection of two spaces."""
    mask = (1 << len(a)) - 1
    return image_basis(apply(a, both & mask) for both in kernel_basis([*a, *b]))


def contains(space: Basis, vector: int) -> bool:
    """Tell whether a space, given by its reduced basis, holds a vector."""
    for basis in reversed(space):
        if vector >> (basis.bit_length() - 1) & 1:
            vector ^= basis
    return vector == 0


def quotient(space: Basis, vector: int) -> Basis:
    """Return the image of a space modulo a vector, as vectors without the vector's highest bit."""
    place = vector.bit_length() - 1
    return image_basis(basis ^ vector if basis >> place & 1 else basis for basis in space)


@dataclass
class _Search:
    """A depth-first search with bounds, and the states seen so far."""

    bank_bits: int
    most_states: int
    target: int  # no K costs less
    states: int = 0
    best: Found | None = None
    seen: set[tuple[object, ...]] = field(default_factory=set)

    def run(self, demands: Sequence[Demand], free: int, apart: Basis) -> Found:
        self._visit(_merged(demands), free, apart, (), ())
        assert self.best is not None
        complete = self.states <= self.most_states or self.best.cycles == self.target
        return Found(self.best.cycles, self.best.shared, self.best.kernel, complete, self.states)

    def _is_over(self) -> bool:
        return self.best is not None and (self.states > self.most_states or self.best.cycles == self.target)

    def _visit(
        self, demands: tuple[Demand, ...], free: int, apart: Basis, shared: tuple[int, ...], kernel: tuple[int, ...]
    ) -> None:
        total = image_basis(vector for demand in demands for vector in demand.space)
        if len(total) <= self.bank_bits:
            cycles = sum(demand.cycles for demand in demands)
            if self.best is None or cycles < self.best.cycles:
                self.best = Found(cycles, shared, kernel, True, self.states)
            return
        rest = max(0, free - 1)
        for vector in _candidates(demands, apart, total, free > 0):
            if self._is_over():
                return
            self.states += 1
            if not free and contains(apart, vector):
                continue
            below = _merged([demand.modulo(vector, free > 0) for demand in demands])
            bound = sum(demand.least(self.bank_bits, rest) for demand in below)
            if self.best is not None and bound >= self.best.cycles:
                continue
            apart_below = quotient(apart, vector)
            state = _state(below, apart_below, rest)
            if state not in self.seen:
                self.seen.add(state)
                more = ((*shared, vector), kernel) if free else (shared, (*kernel, vector))
                self._visit(below, rest, apart_below, *more)


def _merged(demands: Sequence[Demand]) -> tuple[Demand, ...]:
    """Return the demands with those of equal words added up."""
    cycles: dict[Basis, int] = {}
    for demand in demands:
        cycles[demand.space] = cycles.get(demand.space, 0) + demand.cycles
    return tuple(sorted(Demand(space, count) for space, count in cycles.items()))


def _spaces(demands: Sequence[Demand], apart: Basis) -> list[Basis]:
    return [space for space in (*(demand.space for demand in demands), apart) if space]


def _state(demands: Sequence[Demand], apart: Basis, free: int) -> tuple[object, ...]:
    """Return what two states have in common only if they are the same problem."""
    spaces = _spaces(demands, apart)
    rest = (tuple(demand.cycles for demand in demands), len(demands) - len(spaces), free)
    if len(spaces) > 3:
        return (*spaces, *rest)
    a, b, c = [*spaces, (), (), ()][:3]
    ab, whole = intersection(a, b), rank([*a, *b, *c])
    meets = (len(ab), len(intersection(a, c)), len(intersection(b, c)), len(intersection(ab, c)))
    return (len(a), len(b), len(c), *meets, whole, *rest)


def _candidates(demands: Sequence[Demand], apart: Basis, total: Basis, is_free: bool) -> Iterator[int]:
    """Yield vectors to try next, one of every kind at least, those that cost least first."""
    spaces = _spaces(demands, apart)

    def order(vector: int) -> tuple[int, int]:
        cost = sum(demand.cycles for demand in demands if contains(demand.space, vector))
        return (-cost if is_free else cost), vector

    if len(spaces) <= 3:
        yield from sorted(representatives(*[*spaces, (), (), ()][:3]), key=order)
        return
    inside = {vector for demand in demands for vector in span(demand.space)} - {0}
    ordered = sorted(inside, key=order)
    outside = (vector for vector in _sums(total) if vector not in inside)
    for part in (ordered, outside) if is_free else (outside, ordered):
        yield from part


def span(basis: Sequence[int]) -> list[int]:
    """Return all sums of basis vectors."""
    sums = [0]
    for vector in basis:
        sums += [total ^ vector for total in sums]
    return sums


def _sums(basis: Basis) -> Iterator[int]:
    """Yield all sums but 0, one vector at a time (Gray code), as there may be very many."""
    total = 0
    for count in range(1, 1 << len(basis)):
        total ^= basis[(count & -count).bit_length() - 1]
        yield total


def representatives(a: Basis, b: Basis, c: Basis) -> set[int]:
    """Return non-zero vectors, so that every vector of the sum is taken to one by a map that keeps all three spaces."""
    ab, ac, bc = intersection(a, b), intersection(a, c), intersection(b, c)
    abc = intersection(ab, c)
    pieces = [_outside((), abc), _outside(abc, ab), _outside(abc, ac), _outside(abc, bc)]
    for own, other, third in ((a, b, c), (b, a, c), (c, a, b)):
        pieces.append(_outside(intersection(own, image_basis([*other, *third])), own))
    # Planes that meet a, b and c in three different lines: u in a is the sum of v in b and w in c.
    lines: list[int] = [0]
    inner, meeting = [*ab, *ac], intersection(a, image_basis([*b, *c]))
    planes = [
        vector for k, vector in enumerate(meeting) if rank([*inner, *meeting[: k + 1]]) > rank([*inner, *meeting[:k]])
    ]
    parts = [apply(b, solve([*b, *c], vector) & ((1 << len(b)) - 1)) for vector in planes[:2]]
    if planes:
        lines += [planes[0], parts[0], planes[0] ^ parts[0]]
    if len(planes) > 1:
        lines.append(planes[0] ^ parts[1])
    choices = [(0, *piece) for piece in pieces]
    return {_xor(chosen) ^ line for chosen in product(*choices) for line in lines} - {0}


def _outside(inner: Basis, outer: Basis) -> tuple[int, ...]:
    """Return a vector of `outer` that is not in `inner`, as a list of at most one."""
    return next(((vector,) for vector in outer if not contains(inner, vector)), ())


def _xor(values: Sequence[int]) -> int:
    total = 0
    for value in values:
        total ^= value
    return total


__all__ = [
    "Basis",
    "Demand",
    "Found",
    "contains",
    "intersection",
    "least_cycles",
    "quotient",
    "representatives",
    "span",
]
