"""From a quasi-affine map over a domain to a chain of layouts, and back.

The coordinates of the domain give, exactly where a divisor divides its extent, their own digits; every further
level of quotients is one more stage, which reads the arguments of its divisions as axes, splits them at the
divisors and carries along the part of the result that is known by then.

Not modelled on the way back: XOR strides and tables, unless the whole chain is a sum of quotients all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from layouts.interop.quasi_affine import Affine, Space
from layouts.layout import Layout, Stage, Table
from layouts.stride import MAX_AXES, X, stride_leaves, vector

Port = tuple[Affine, tuple[int, ...]]  # a value some stage reads, and the divisors at which it splits it


def layout_of(space: Space, results: Sequence[Affine]) -> Layout:
    """Return the layout with one mode per coordinate of `space` and the given results.

    One result is a number, several are the axes 0, 1, ...  ValueError if a stage would need more than MAX_AXES
    coordinates, or the chain is longer than a layout may be.
    """
    return _Chain(space, results).layout()


class _Chain:
    """A map cut into stages: level 0 is the digits of the coordinates, level t + 1 divides what level t gives."""

    def __init__(self, space: Space, results: Sequence[Affine]) -> None:
        self.space = space
        self.results = list(results)
        reached = self._reachable()
        self.splits = [self._exact_splits(k, reached) for k in range(len(space.extents))]
        self.levels = self._levels(reached)
        exact = max(self.levels.values())
        if exact:  # a stage is needed: where it can do all splits, the coordinates stay whole
            splits, self.splits = self.splits, [[] for _ in space.extents]
            levels, self.levels = self.levels, self._levels(reached)
            if max(self.levels.values()) > exact:
                self.splits, self.levels = splits, levels
        self.top = max(self.levels.values())
        self.order = self._order(reached)

    def _levels(self, reached: Iterable[int]) -> dict[int, int]:
        """Return the stage that knows each atom; 0 are the coordinates and the quotients where they are split."""
        levels = dict.fromkeys(range(len(self.space.extents)), 0)
        for atom in sorted(reached):
            argument, divisor = self.space.quotients[atom]
            k = self._coordinate(argument)
            exact = k is not None and divisor in self.splits[k]
            levels[atom] = 0 if exact else 1 + max(levels[t] for t, _ in argument.terms)
        return levels

    def _order(self, reached: Iterable[int]) -> dict[int, int]:
        """Return a number per atom that does not depend on the order in which the expressions were read."""
        order = {k: k for k in range(len(self.space.extents))}
        by_depth: dict[int, list[int]] = {}
        for atom in reached:
            by_depth.setdefault(self.space.depth(atom), []).append(atom)
        for _, atoms in sorted(by_depth.items()):
            found = {atom: self.space.quotients[atom] for atom in atoms}
            keys = {atom: (self._key(argument, order), divisor) for atom, (argument, divisor) in found.items()}
            for atom in sorted(atoms, key=keys.__getitem__):
                order[atom] = len(order)
        return order

    @staticmethod
    def _key(value: Affine, order: dict[int, int]) -> tuple[tuple[tuple[int, int], ...], int]:
        return tuple(sorted((order[t], c) for t, c in value.terms)), value.constant

    def _reachable(self) -> set[int]:
        found: set[int] = set()
        waiting = list(self.results)
        while waiting:
            for atom, _ in waiting.pop().terms:
                if atom in self.space.quotients and atom not in found:
                    found.add(atom)
                    waiting.append(self.space.quotients[atom][0])
        return found

    def _coordinate(self, argument: Affine) -> int | None:
        (atom, c), *others = argument.terms
        return atom if not others and c == 1 and not argument.constant and atom not in self.space.quotients else None

    def _exact_splits(self, k: int, reached: Iterable[int]) -> list[int]:
        """Return divisors of coordinate k that divide one another and its extent, ascending."""
        quotients = [self.space.quotients[atom] for atom in reached]
        splits = [1]
        for divisor in sorted(d for argument, d in quotients if self._coordinate(argument) == k):
            if divisor % splits[-1] == 0 and self.space.extents[k] % divisor == 0:
                splits.append(divisor)
        return splits[1:]

    def layout(self) -> Layout:
        """Return the chain, planned from the results back to the coordinates."""
        inputs: list[list[Port]] = [[] for _ in range(self.top + 1)]
        targets: list[list[Affine]] = [[] for _ in range(self.top)] + [self.results]
        for level in range(self.top, 0, -1):
            inputs[level] = self._ports(level, targets[level])
            targets[level - 1] = [value for value, _ in inputs[level]]
        stages = [self._stage(level, inputs[level], targets[level]) for level in range(1, self.top + 1)]
        first = self._digits(targets[0])
        return first.then(*stages) if stages else first

    def _parts(self, target: Affine, level: int) -> tuple[Affine, dict[Affine, dict[int, int]]]:
        """Return what a target takes over from before `level`, and {divisor: factor} by argument divided there.

        Divisor 1 stands for a multiple of the argument itself: a remainder comes from one digit, not from a sum.
        """
        taken = target.as_dict
        groups: dict[Affine, dict[int, int]] = {}
        for atom, c in target.terms:
            if self.levels[atom] == level:
                argument, divisor = self.space.quotients[atom]
                groups.setdefault(argument, {})[divisor] = c
                taken = {t: value for t, value in taken.items() if t != atom}
        constant = target.constant
        for argument, steps in groups.items():
            first, c = argument.terms[0]
            factor, rest = divmod(taken.get(first, 0), c)
            if argument.constant and factor * min(steps) + steps[min(steps)]:
                continue
            if factor and not rest and all(taken.get(t, 0) == factor * c for t, c in argument.terms):
                taken = {t: value for t, value in taken.items() if t not in argument.as_dict}
                constant -= factor * argument.constant
                steps[1] = factor
        return Affine(constant, tuple(sorted(taken.items()))), groups

    def _ports(self, level: int, targets: Sequence[Affine]) -> list[Port]:
        """Return what the stage of `level` reads: arguments of its quotients and values it only carries along."""
        divisors: dict[Affine, set[int]] = {}
        for target in targets:
            carried, groups = self._parts(target, level)
            if carried.terms:
                divisors.setdefault(carried, set())
            for argument, steps in groups.items():
                divisors.setdefault(argument, set()).update(steps.keys() - {1})
        values = sorted(divisors, key=lambda value: self._key(value, self.order))
        ports = [(value, chain) for value in values for chain in _chains(sorted(divisors[value]))]
        if len(ports) > MAX_AXES:
            raise ValueError(f"{len(ports)} coordinates between two stages, at most {MAX_AXES} are allowed")
        return ports

    def _stage(self, level: int, ports: Sequence[Port], targets: Sequence[Affine]) -> Layout:
        """Return the layout that splits the ports and adds up the targets."""
        parts = [self._parts(target, level) for target in targets]
        last = level == self.top
        shapes: list[Any] = []
        strides: list[Any] = []
        seen: set[Affine] = set()
        for value, chain in ports:
            steps = []
            for carried, groups in parts:
                known = {m: groups.get(value, {}).get(m, 0) for m in chain}
                if value not in seen:
                    known[1] = groups.get(value, {}).get(1, 0) + (carried.terms != () and carried == value)
                steps.append(_digit_strides(known, chain))
            seen.add(value)
            extents = [above // low for low, above in zip([1, *chain], chain, strict=False)]
            highest = self.space.bounds(value)[1] // (chain[-1] if chain else 1)
            extents.append(max(1, highest + 1))
            shapes.append(tuple(extents))
            strides.append([self._joined(step, last) for step in zip(*steps, strict=True)])
        offset = self._joined([0 if carried.terms else carried.constant for carried, _ in parts], last)
        if len(ports) == 1:  # it reads one number: all leaves belong to it
            return Layout(_one_or_tuple(shapes[0]), _one_or_tuple(strides[0]), offset)
        return Layout(tuple(map(_one_or_tuple, shapes)), tuple(map(_one_or_tuple, strides)), offset)

    def _atom(self, argument: Affine, divisor: int) -> int:
        return self.space.floordiv(argument, divisor).terms[0][0]

    def _joined(self, numbers: Sequence[int], last: bool) -> Any:
        """Return one number per target as a stride: a number, or a step along the axes of the targets."""
        if len(numbers) == 1 and (not last or len(self.results) == 1):
            return numbers[0]
        return vector(enumerate(numbers))

    def _digits(self, targets: Sequence[Affine]) -> Layout:
        """Return the layout of the coordinates, split where that is exact."""
        extents, last = self.space.extents, self.top == 0
        shapes: list[Any] = []
        strides: list[Any] = []
        for k, chain in enumerate(self.splits):
            coordinate = Affine(0, ((k, 1),))
            steps = []
            for target in targets:
                known = {1: target.as_dict.get(k, 0)}
                known |= {m: target.as_dict.get(self._atom(coordinate, m), 0) for m in chain}
                steps.append(_digit_strides(known, chain))
            shapes.append(tuple(above // low for low, above in zip([1, *chain], [*chain, extents[k]], strict=True)))
            strides.append([self._joined(step, last) for step in zip(*steps, strict=True)])
        offset = self._joined([target.constant for target in targets], last)
        shape = tuple(map(_one_or_tuple, shapes))
        stride = tuple(map(_one_or_tuple, strides))
        if len(shape) == 1 and isinstance(shape[0], int):
            return Layout(shape[0], stride[0], offset)
        return Layout(shape, stride, offset)


def _chains(divisors: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the ascending divisors as chains in which each divides the next: one mode can split at one chain."""
    chains: list[list[int]] = []
    for divisor in divisors:
        for chain in chains:
            if divisor % chain[-1] == 0:
                chain.append(divisor)
                break
        else:
            chains.append([divisor])
    return [tuple(chain) for chain in chains] or [()]


def _digit_strides(known: dict[int, int], chain: Sequence[int]) -> list[int]:
    """Return the strides of the digits of ``sum known[m] * (value // m)``, split at the chain."""
    strides = [known.get(1, 0)]
    for low, above in zip([1, *chain], chain, strict=False):
        strides.append(strides[-1] * (above // low) + known[above])
    return strides


def _one_or_tuple(items: Sequence[Any]) -> Any:
    return tuple(items) if len(items) > 1 else items[0]


# --- and back -----------------------------------------------------------------------------------------------------


def affine_of(layout: Layout) -> tuple[Space, list[Affine]]:
    """Return the coordinates of a layout, one per mode, and its results in them, one per axis 0, 1, ...

    ValueError names the stage that is no quasi-affine map: an XOR stride, a table, or axes that have names.
    """
    if named := [axis for axis in layout.axes or () if not isinstance(axis, int)]:
        raise ValueError(f"layout {_short(layout)}: axis {named[0]!r} has a name, an affine map numbers its results")
    space = Space([layout.mode(k).size for k in range(layout.rank)])
    parts: list[Layout | Stage] = [layout, *layout.stages]
    foreign = next((part for part in parts if isinstance(part, Table) or part.has_xor), None)
    if foreign is None:
        return space, _by_number(_follow(space, layout))
    if layout.axes is None:
        return space, [_from_key(space, layout, foreign)]
    return space, _by_number({axis: _from_key(space, layout.along(axis), foreign) for axis in layout.axes})


def _by_number(values: dict[Any, Affine]) -> list[Affine]:
    if None in values:
        return [values[None]]
    return [values.get(k, Affine(0)) for k in range(max(values) + 1)]


def _follow(space: Space, layout: Layout) -> dict[Any, Affine]:
    """Return the results by axis, None for a number, by following the stages with values in place of numbers."""
    groups = [[(dim, list(layout.mode(k).leaves()))] for k, dim in enumerate(map(space.dim, range(layout.rank)))]
    values = _sum_digits(space, layout, [item for group in groups for item in group])
    for stage in layout.stages:
        assert isinstance(stage, Layout)
        if None in values:
            values = _sum_digits(space, stage, [(values[None], list(stage.leaves()))])
        else:
            read = [(values.get(k, Affine(0)), list(stage.mode(k).leaves())) for k in range(stage.rank)]
            values = _sum_digits(space, stage, read)
    return values


def _sum_digits(space: Space, layout: Layout, read: Iterable[tuple[Affine, list[Any]]]) -> dict[Any, Affine]:
    """Return the inner product of digits and strides by axis; the last leaf of every value read goes on."""
    digits: list[tuple[Affine, Any]] = []
    for value, leaves in read:
        for place, (extent, stride) in enumerate(leaves):
            if place == len(leaves) - 1:
                digits.append((value, stride))
            else:
                rest = space.floordiv(value, extent)
                digits.append((space.total(((value, 1), (rest, -extent))), stride))
                value = rest
    axes: tuple[Any, ...] = layout.stage_axes if layout.stage_axes is not None else (None,)
    return {
        axis: space.total([(Affine(_part(layout.offset, axis)), 1), *((d, _part(step, axis)) for d, step in digits)])
        for axis in axes
    }


def _part(step: Any, axis: Any) -> int:
    if axis is None:
        return int(step)
    return 0 if isinstance(step, int) else int(step.part(axis))


def _from_key(space: Space, layout: Layout, foreign: Layout | Stage) -> Affine:
    """Return a map with XOR strides or tables that is a sum of quotients of the linear index all the same.

    The divisors must divide one another: any table is a sum of quotients by all numbers.
    """
    terms = layout.key[1]
    if any(isinstance(term, str) for term in terms[:1]) or any(q % p for (p, _), (q, _) in pairwise(terms) if p):
        raise ValueError(f"layout {_short(layout)}: {_name_of(foreign)} is no quasi-affine expression")
    index = space.index()
    parts = [(Affine(1) if p == 0 else space.floordiv(index, p), c) for p, c in terms]
    return space.total(parts)


def _name_of(stage: Layout | Stage) -> str:
    if isinstance(stage, Table):
        return "the table"
    steps = (part for s in stride_leaves(stage.stride) for part in (getattr(s, "parts", None) or ((None, s),)))
    step = next(part for _, part in steps if isinstance(part, X))
    return f"the XOR stride {step}"


def _short(layout: Layout) -> str:
    text = str(layout)
    return text if len(text) <= 60 else text[:57] + "..."
