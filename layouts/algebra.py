"""Operations on layouts: coalesce, compose, decide injectivity.

Second step on the ground floor: a tile of a tensor is a composition, two spellings of one layout coalesce
to one, and a buffer may only be written through an injective layout.  All answers come from the canonical
sum ``f(i) = sum c_k * (i // P_k)`` of `layouts.layout`, none by walking the domain.

Not modelled: composition beyond the domain of the outer layout (CuTe continues the last mode without
end), and compositions that are layouts only because carries at different boundaries happen to cancel;
both are refused.
"""

from itertools import pairwise

from layouts.layout import Key, Layout, flat_layout, modes_of_key, nested_layout

MAX_STATES = 1_000_000  # assumed: partial sums the injectivity test may hold; ordinary layouts need a handful


def coalesce(layout: Layout) -> Layout:
    """Return the flat layout with the fewest modes that is the same function of the linear index."""
    return flat_layout(modes_of_key(layout.key))


def composition(a: Layout, b: Layout) -> Layout:
    """Return `a` after `b`: the layout with ``result(i) == a(b(i))``, whose shape refines the shape of `b`.

    ValueError where that function is no such layout: `b` leaves the domain of `a`, a mode of `b` steps
    unevenly over a mode boundary of `a`, its extent is not a multiple of the steps up to that boundary,
    or two modes carry.
    """
    where = f"composition of {a} after {b}"
    if any(extent > 1 and stride < 0 for extent, stride in b.leaves()):
        raise ValueError(f"{where}: b reaches negative offsets, a takes indices 0..{a.size - 1}")
    if b.cosize > a.size:
        raise ValueError(f"{where}: b reaches offset {b.cosize - 1}, a takes indices 0..{a.size - 1}")
    parts = []
    for k in range(b.rank):
        for extent, stride in b.mode(k).leaves():
            parts.append(_compose_leaf(a.key, extent, stride, f"{where}: mode {k} of b, {extent}:{stride},"))
    for boundary, _ in a.key[1]:
        reach = sum(_peak(extent, stride, boundary) for extent, stride in b.leaves())
        if reach >= boundary:
            raise ValueError(
                f"{where}: the modes of b together carry over the boundary of a at index {boundary}: "
                f"their largest remainders add up to {reach}"
            )
    return nested_layout(b.shape, parts)


def _compose_leaf(key: Key, extent: int, stride: int, where: str) -> Layout:
    """Compose one leaf: turn sum c * (stride * i // P) into sum c' * (i // Q), Q dividing the extent."""
    steps: dict[int, int] = {}
    boundary_of: dict[int, int] = {}
    for boundary, c in key[1]:
        quotient, remainder = divmod(stride, boundary)
        steps[1] = steps.get(1, 0) + c * quotient
        if remainder * (extent - 1) >= boundary:
            step = -(-boundary // remainder)
            if extent > _even_until(boundary, remainder):
                raise ValueError(
                    f"{where} steps unevenly over the boundary of a at index {boundary}: "
                    f"{remainder} does not divide {boundary}"
                )
            steps[step] = steps.get(step, 0) + c
            boundary_of[step] = boundary
    terms = sorted((step, c) for step, c in steps.items() if c and step < extent)
    for step, above in pairwise([*(step for step, _ in terms), extent]):
        if above % step:
            raise ValueError(
                f"{where} reaches the boundary of a at index {boundary_of[step]} every {step} steps: "
                f"{step} does not divide {above}"
            )
    return flat_layout(modes_of_key((extent, tuple(terms))))


def _even_until(boundary: int, remainder: int) -> float:
    """Return the first i at which remainder * i // boundary differs from i // ceil(boundary / remainder)."""
    step = -(-boundary // remainder)
    excess = step * remainder - boundary
    return float("inf") if excess == 0 else -(-remainder // excess) * step - 1


def _peak(extent: int, stride: int, boundary: int) -> int:
    """Return the largest (stride * i) % boundary, i < extent, of a leaf that `_compose_leaf` has accepted."""
    remainder = stride % boundary
    if remainder * (extent - 1) < boundary:
        return remainder * (extent - 1)
    step = -(-boundary // remainder)
    last_full, rest = divmod(extent - 1, step)
    lift = step * remainder - boundary
    before = remainder * (step - 1) + (last_full - 1) * lift
    return max(before, remainder * rest + last_full * lift)


def is_injective(layout: Layout) -> bool:
    """Tell whether no two indices share an offset.

    Exact: looks for a non-zero difference of two coordinates with offset 0, largest stride first, keeping
    only partial sums that the smaller strides can still cancel.  ValueError if there are more than
    MAX_STATES of them.
    """
    modes = sorted(((abs(d), s) for s, d in layout.leaves() if s > 1), reverse=True)
    if layout.size > layout.cosize or any(stride == 0 for stride, _ in modes):
        return False
    reach = sum(stride * (extent - 1) for stride, extent in modes)
    sums: set[int] = set()  # offsets of differences that are not zero; by symmetry their first digit is positive
    for stride, extent in modes:
        reach -= stride * (extent - 1)
        following: set[int] = set()
        for partial, lowest in [(0, 1), *((partial, 1 - extent) for partial in sums)]:
            digits = _window(lowest, extent - 1, partial, stride, reach)
            if len(following) + len(digits) > MAX_STATES:
                raise ValueError(f"layout {layout}: injectivity needs more than {MAX_STATES} partial sums")
            following.update(partial + stride * x for x in digits)
        sums = following
        if 0 in sums:
            return False
    return True


def _window(low: int, high: int, partial: int, stride: int, reach: int) -> range:
    """Return the digits x in low..high with abs(partial + stride * x) <= reach."""
    first = -((reach + partial) // stride)
    last = (reach - partial) // stride
    return range(max(low, first), min(high, last) + 1)
