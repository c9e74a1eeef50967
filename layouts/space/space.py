"""The space of legal layouts of a tensor, for a search.

First link of the data's path, before any layout is chosen: which layouts there are.  A layout of the space is
compact: every axis is cut into digits, and the digits lie in memory in some order without gaps; a stage of a given
list (a swizzle, padding) may follow.  Digits are placed outward from the innermost one, and only where the rest can
still be completed within the constraints; each distinct function comes once.

Not modelled: gaps between digits other than by a padding stage, broadcast axes, and elements of less than a byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from math import gcd, prod
from typing import Any

import numpy as np

from layouts.layout import Stage
from layouts.notation import NamedLayout, nearest_first
from layouts.shape import INT64_MAX, as_int
from layouts.space.orders import Digit, Option, Orders
from layouts.space.recognise import Modes, layout_of, modes_under
from layouts.space.variants import Variant

MAX_AXIS = 2**40  # assumed: the size of an axis, so that its divisors are found at once
MAX_CUTS = 256  # assumed: boundaries at which an axis may be cut
MAX_COUNTED = 1_000_000  # assumed: layouts looked at one by one where stages overlap
MAX_TRIES = 1000  # assumed: draws for one sample


@dataclass(frozen=True)
class Space:
    """The layouts of a tensor with the axes `sizes` of elements of `element_bytes`.

    tiles: the boundaries at which an axis may be cut, ``{"token": (8, 32)}`` for token%8, token%32//8, token//32;
        ``()`` leaves it whole; without an entry every divisor is allowed.
    max_digits: the most digits of an axis, for all or by axis.
    outer: axes that lie outermost, the first one outside all others, each in one piece.
    innermost: the axis along which neighbours in memory are neighbours in the tensor.
    run_bytes, align_bytes: the innermost run, neighbours along one axis at consecutive offsets, has at least
        run_bytes (a burst), and its bytes are a multiple of align_bytes.  Under a stage the run is the common
        divisor with the blocks that the stage keeps together and aligned.
    page_bytes: no page holds a part of a digit that does not repeat page by page: the page boundary falls between
        two digits or divides one evenly, and a stage keeps every page together.
    stages: what may follow, one of these; None is the compact layout itself.  A stage under which a constraint
        cannot hold gives no layouts.

    ValueError for unknown axes, boundaries that do not divide, a page that is no whole number of elements, and a
    stage that is not injective.
    """

    sizes: Mapping[str, int]
    element_bytes: int = 1
    tiles: Mapping[str, Sequence[int]] = field(default_factory=dict)
    max_digits: int | Mapping[str, int] | None = None
    outer: tuple[str, ...] = ()
    innermost: str | None = None
    run_bytes: int = 1
    align_bytes: int = 1
    page_bytes: int | None = None
    stages: tuple[Stage | None, ...] = (None,)

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("sizes: at least one axis is needed")
        sizes = {axis: as_int(size, f"size of axis {axis}") for axis, size in self.sizes.items()}
        for axis, size in sizes.items():
            if not 1 <= size <= MAX_AXIS:
                raise ValueError(f"axis {axis} has size {size}, allowed are 1..2**40")
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "tiles", {axis: tuple(cuts) for axis, cuts in self.tiles.items()})
        object.__setattr__(self, "outer", tuple(self.outer))
        object.__setattr__(self, "stages", tuple(self.stages))
        self._check_bytes()
        self._check_axes()
        _ = self._variants, self._cuts

    def _check_bytes(self) -> None:
        for name in ("element_bytes", "run_bytes", "align_bytes", "page_bytes"):
            number = getattr(self, name)
            if name == "page_bytes" and number is None:
                continue
            if as_int(number, name) < 1:
                raise ValueError(f"{name} is {number}, at least 1 is needed")
        if self._size * self.element_bytes > INT64_MAX:
            raise ValueError(f"a tensor of {self._size} elements of {self.element_bytes} bytes does not fit 64 bits")
        if self.page_bytes is not None and self.page_bytes % self.element_bytes:
            raise ValueError(
                f"page_bytes is {self.page_bytes}, a multiple of element_bytes {self.element_bytes} is needed"
            )

    def _check_axes(self) -> None:
        given = [("tiles", axis) for axis in self.tiles] + [("outer", axis) for axis in self.outer]
        given += [("innermost", self.innermost)] if self.innermost is not None else []
        given += [("max_digits", axis) for axis in self.max_digits] if isinstance(self.max_digits, Mapping) else []
        for where, axis in given:
            if axis not in self.sizes:
                allowed = nearest_first(str(axis), self.sizes, 8)
                raise ValueError(f"{where}: unknown axis {str(axis)[:80]!r}, allowed are {allowed}")
        for axis in self.outer:
            if self.outer.count(axis) > 1 or axis == self.innermost or axis in self.tiles:
                other = "outer" if self.outer.count(axis) > 1 else "innermost" if axis == self.innermost else "tiles"
                raise ValueError(f"outer: axis {axis} stands in {other} as well")
        for axis, most in self._most.items():
            if as_int(most, f"max_digits of axis {axis}") < 1:
                raise ValueError(f"max_digits of axis {axis} is {most}, at least 1 is needed")

    # The parts that the calls below work with.

    @cached_property
    def _size(self) -> int:
        return prod(self.sizes.values())

    @cached_property
    def _page(self) -> int:
        """The page in elements; 1 where its boundary always fits, because all sizes are powers of one prime."""
        if self.page_bytes is None:
            return 1
        page = self.page_bytes // self.element_bytes
        primes = {prime for size in self.sizes.values() for prime in _primes(size)}
        while len(primes) == 1 and page % min(primes) == 0:
            page //= min(primes)
        return 1 if page == 1 and len(primes) <= 1 else self.page_bytes // self.element_bytes

    @cached_property
    def _most(self) -> dict[str, int]:
        if isinstance(self.max_digits, Mapping):
            return {axis: self.max_digits.get(axis, 63) for axis in self.sizes}
        return dict.fromkeys(self.sizes, 63 if self.max_digits is None else self.max_digits)

    @cached_property
    def _inner(self) -> tuple[str, ...]:
        return tuple(axis for axis in self.sizes if axis not in self.outer)

    @cached_property
    def _cuts(self) -> dict[str, tuple[int, ...]]:
        return {axis: _boundaries(axis, self.sizes[axis], self.tiles.get(axis)) for axis in self._inner}

    @cached_property
    def _orders(self) -> Orders:
        outer = [self.sizes[axis] for axis in reversed(self.outer)]
        cuts = [self._cuts[axis] for axis in self._inner]
        return Orders(cuts, [self._most[axis] for axis in self._inner], self._page, outer)

    @cached_property
    def _variants(self) -> tuple[Variant, ...]:
        """The stages under which pages stay together, equal ones once."""
        variants = [Variant(stage, self._size) for stage in self.stages]
        page = 1 if self.page_bytes is None else self.page_bytes // self.element_bytes
        kept: dict[Any, Variant] = {}
        for variant in variants:
            if variant.keeps_pages(page):
                kept.setdefault(variant.key, variant)
        return tuple(kept.values())

    @cached_property
    def _overlapping(self) -> bool:
        """Whether two stages may give one function, so that it must be looked for under the earlier ones."""
        return any(a.may_meet(b) for k, b in enumerate(self._variants) for a in self._variants[:k])

    def _run_fits(self, extent: int, variant: Variant) -> bool:
        run = gcd(extent, variant.grain) * self.element_bytes
        return run >= self.run_bytes and run % self.align_bytes == 0

    def _may_start(self, digit: Digit | None, variant: Variant) -> bool:
        """Tell whether a digit may be the innermost one; None where only `outer` axes have digits."""
        if digit is None:
            sizes = [self.sizes[axis] for axis in reversed(self.outer) if self.sizes[axis] > 1]
            return self._innermost is None and self._run_fits(sizes[0] if sizes else 1, variant)
        if self._innermost is not None and (self._inner[digit.axis] != self._innermost or digit.low > 1):
            return False
        return self._run_fits(digit.extent if digit.low == 1 else 1, variant)

    @cached_property
    def _innermost(self) -> str | None:
        """The innermost axis, if it has more than one coordinate."""
        return None if self.innermost is None or self.sizes[self.innermost] == 1 else self.innermost

    @cached_property
    def _blocks(self) -> list[tuple[Variant, list[Option], int]]:
        """Per stage: the digits that may be innermost, and the number of orders."""
        root = self._orders.root
        blocks: list[tuple[Variant, list[Option], int]] = []
        for variant in self._variants:
            if not any(root.gaps):
                blocks.append((variant, [], self._orders.count(root) if self._may_start(None, variant) else 0))
                continue
            first = [option for option in self._orders.options(root) if self._may_start(option[0], variant)]
            blocks.append((variant, first, sum(count for _, _, count in first)))
        return blocks

    # The space itself.

    def enumerate(self) -> Iterator[NamedLayout]:
        """Yield every layout once: stage by stage, then by the innermost digit (axis, boundaries), and so on."""
        for variant, first, count in self._blocks:
            for digits in self._orders.walk(first) if first else [()] * count:
                layout = self._layout(digits, variant)
                if self._comes_first(layout, variant):
                    yield layout

    def count(self) -> int:
        """Return the number of layouts.

        A closed form, so that large spaces are counted as well, but for a page boundary that does not always fit
        and for stages that give one function twice; ValueError where these leave too much to look at.
        """
        total = self._total
        if not self._overlapping:
            return total
        if total > MAX_COUNTED:
            raise ValueError(f"count: two stages may give one function, and {total} are too many to look at")
        return sum(1 for _ in self.enumerate())

    @property
    def _total(self) -> int:
        return sum(count for _, _, count in self._blocks)

    def at(self, rank: int) -> NamedLayout:
        """Return layout number `rank` of `enumerate`, without the ones before it; ValueError outside."""
        if self._overlapping:
            found = next(islice(self.enumerate(), max(0, rank), None), None) if rank < MAX_COUNTED else None
            if found is None or rank < 0:
                raise ValueError(f"layout {rank} of the space: there is none")
            return found
        if not 0 <= rank < self._total:
            raise ValueError(f"layout {rank} of the space: it has {self._total}")
        return self._unranked(rank)[0]

    def sample(self, rng: np.random.Generator, n: int) -> list[NamedLayout]:
        """Return `n` different layouts, drawn uniformly from all distinct functions of the space without replacement.

        ValueError if there are fewer, or if where stages overlap MAX_TRIES draws find no new one.
        """
        total = self._total
        if not 0 <= n <= total:
            raise ValueError(f"sample: {n} layouts of a space that has {total}")
        found: list[NamedLayout] = []
        for tries, rank in enumerate(_shuffled(rng, total)):
            if len(found) == n:
                break
            layout, variant = self._unranked(rank)
            if self._comes_first(layout, variant):
                found.append(layout)
            elif tries > MAX_TRIES * (1 + len(found)):
                break
        if len(found) < n:
            raise ValueError(f"sample: {tries + 1} draws find {len(found)} of {n} layouts, the others are repetitions")
        return found

    def contains(self, layout: NamedLayout) -> bool:
        """Tell whether a layout is the same function as one of the space.

        A layout of more than 2**20 elements that is neither integer strides, nor bitwise, nor spelt with the stages
        of the space, is not recognised.
        """
        if {axis for axis in layout.axes if layout.size(axis) > 1} != {a for a, s in self.sizes.items() if s > 1}:
            return False
        if any(layout.size(axis) != self.sizes.get(axis, 1) for axis in layout.axes):
            return False
        return any(self._contains(layout, variant) for variant in self._variants)

    def __contains__(self, layout: object) -> bool:
        return isinstance(layout, NamedLayout) and self.contains(layout)

    def _comes_first(self, layout: NamedLayout, variant: Variant) -> bool:
        """Tell whether no stage before `variant` gives the same function."""
        if not self._overlapping:
            return True
        before = self._variants[: self._variants.index(variant)]
        return not any(self._contains(layout, earlier) for earlier in before)

    def _unranked(self, rank: int) -> tuple[NamedLayout, Variant]:
        for variant, first, count in self._blocks:
            if rank < count:
                return self._layout(self._orders.at(rank, first) if first else (), variant), variant
            rank -= count
        raise AssertionError("a rank below the total")

    def _layout(self, digits: Sequence[Digit], variant: Variant) -> NamedLayout:
        found: dict[str, list[tuple[int, int, int]]] = {axis: [] for axis in self.sizes}
        stride = 1
        for digit in digits:
            found[self._inner[digit.axis]].append((digit.low, digit.extent, stride))
            stride *= digit.extent
        for axis in reversed(self.outer):
            if self.sizes[axis] > 1:
                found[axis].append((1, self.sizes[axis], stride))
            stride *= self.sizes[axis]
        modes = {axis: [(extent, step) for _, extent, step in sorted(parts)] for axis, parts in found.items()}
        return NamedLayout(tuple(self.sizes), layout_of(modes, variant.stage))

    # Recognising a layout.

    def _contains(self, layout: NamedLayout, variant: Variant) -> bool:
        modes = modes_under(layout, variant)
        return modes is not None and self._is_legal(modes, variant)

    def _is_legal(self, modes: Modes, variant: Variant) -> bool:
        digits: list[tuple[int, str, int, int]] = []  # stride, axis, low, high
        for axis, parts in modes.items():
            low = 1
            for extent, stride in parts:
                digits.append((stride, axis, low, low * extent))
                low *= extent
        digits.sort()
        product = 1
        for stride, _, low, high in digits:
            if stride != product:
                return False
            product *= high // low
        outer = [axis for axis in self.outer if self.sizes[axis] > 1]
        tail = digits[len(digits) - len(outer) :]
        if [axis for _, axis, _, _ in reversed(tail)] != outer or any(low > 1 for _, _, low, _ in tail):
            return False
        inner = digits[: len(digits) - len(outer)]
        if any(axis in outer for _, axis, _, _ in inner):
            return False
        placed = [Digit(self._inner.index(axis), low, high) for _, axis, low, high in inner]
        return self._may_start(placed[0] if placed else None, variant) and self._orders.allows(placed)


def _boundaries(axis: str, size: int, tiles: Sequence[int] | None) -> tuple[int, ...]:
    """Return the boundaries of an axis, 1 and its size included; ValueError for one that does not divide it."""
    if tiles is None:
        found = [1]
        for prime, power in _primes(size).items():
            found = [divisor * prime**k for divisor in found for k in range(power + 1)]
    else:
        found = [as_int(tile, f"tiles of axis {axis}") for tile in tiles]
        if wrong := [tile for tile in found if tile < 1 or size % tile]:
            raise ValueError(f"tiles of axis {axis}: {wrong[0]} does not divide {size}")
    cuts = sorted({1, size, *found})
    if len(cuts) > MAX_CUTS:
        raise ValueError(
            f"axis {axis} of size {size} has {len(cuts)} boundaries, at most {MAX_CUTS} are allowed: give tiles"
        )
    return tuple(cuts)


def _primes(number: int) -> dict[int, int]:
    """Return the prime factors of a number and their powers."""
    factors: dict[int, int] = {}
    prime = 2
    while prime * prime <= number:
        while number % prime == 0:
            factors[prime] = factors.get(prime, 0) + 1
            number //= prime
        prime += 1
    return factors | ({number: factors.get(number, 0) + 1} if number > 1 else {})


def _below(rng: np.random.Generator, limit: int) -> int:
    """Return a uniform integer below `limit`, which may be beyond 64 bits."""
    bits = limit.bit_length()
    while True:
        number = int.from_bytes(rng.bytes((bits + 7) // 8), "little") % (1 << bits)
        if number < limit:
            return number


def _shuffled(rng: np.random.Generator, total: int) -> Iterator[int]:
    """Yield the numbers below `total` in a uniformly random order, without a list of them while few are drawn."""
    drawn: set[int] = set()
    while 2 * len(drawn) < total:
        rank = _below(rng, total)
        if rank not in drawn:
            drawn.add(rank)
            yield rank
    rest = [rank for rank in range(total) if rank not in drawn]
    while rest:
        yield rest.pop(_below(rng, len(rest)))
