"""Linear maps over F2 as plain integers: the algebra of swizzles, bank hashes and distributed layouts.

Ground floor, beside `layouts.layout`: a layout of powers of two without carries is such a map, and what it
does to banks, lanes or registers is a question of rank.  A map is the tuple of its columns, column k the image
of input bit k, bit j of an integer its row j: ``(1, 2, 5)`` sends 0b110 to 2 ^ 5 = 7.

Where several inputs would do, `solve` and all that rests on it use the earliest columns: a column that depends
on earlier ones is never taken.

Not modelled: constants (an affine map is its value at 0 and the map of the differences) and names of bits.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import or_
from typing import Any, TypeAlias

from layouts.shape import as_int

Columns: TypeAlias = tuple[int, ...]
Vectors: TypeAlias = Sequence[Sequence[int]]  # columns as digits, a power of two each

MAX_BITS = 62  # indices and offsets are integers of 64 bits
MAX_RANK = 16  # assumed: dimensions of a tensor
BANKS, BANK_BITS = 32, 32  # shared memory of NVIDIA GPUs since 2012: CUDA C++ Programming Guide
ACCESS_BITS = 128  # widest load or store of one thread: same source

_Pivots: TypeAlias = dict[int, tuple[int, int]]  # bit length of a sum of columns -> the sum, the columns in it


def apply(columns: Sequence[int], value: int) -> int:
    """Return the image of `value`: the XOR of the columns of its bits; ValueError for more bits than columns."""
    if as_column(value) >> len(columns):
        raise ValueError(f"value {value:#x}: a map of {len(columns)} columns takes 0..{(1 << len(columns)) - 1}")
    return image(columns, value)


def image(columns: Sequence[int], value: int) -> int:
    """Return what `apply` does, of a value that is known to have no more bits than there are columns."""
    result = 0
    while value:
        lowest = value & -value
        result ^= columns[lowest.bit_length() - 1]
        value ^= lowest
    return result


def compose(outer: Sequence[int], inner: Sequence[int]) -> Columns:
    """Return `outer` after `inner`; ValueError where `inner` has rows that `outer` has no column for."""
    return tuple(apply(outer, column) for column in inner)


def transpose(columns: Sequence[int], rows: int) -> Columns:
    """Return the transposed matrix of a map with `rows` output bits, one column per row."""
    _checked(columns, rows)
    return tuple(sum((column >> j & 1) << k for k, column in enumerate(columns)) for j in range(rows))


def product(first: Sequence[int], rows: int, second: Sequence[int]) -> Columns:
    """Return the direct sum: the bits of `second` stand above those of `first`, which has `rows` output bits."""
    return (*_checked(first, rows), *(column << rows for column in _checked(second)))


def rank(columns: Iterable[int]) -> int:
    """Return the dimension of the image."""
    return len(_eliminate(columns)[0])


def image_basis(columns: Iterable[int]) -> Columns:
    """Return the reduced basis of the image, ascending: equal exactly for equal images.

    Each vector has a leading bit that no other vector has.
    """
    basis: list[int] = []
    for _, (vector, _) in sorted(_eliminate(columns)[0].items()):
        for other in basis:
            if vector >> (other.bit_length() - 1) & 1:
                vector ^= other
        basis.append(vector)
    return tuple(basis)


def kernel_basis(columns: Iterable[int]) -> Columns:
    """Return the reduced basis of the inputs that are sent to 0, ascending."""
    return image_basis(_eliminate(columns)[1])


def is_injective(columns: Sequence[int]) -> bool:
    """Tell whether no two inputs share an image."""
    return rank(columns) == len(columns)


def solve(columns: Iterable[int], value: int) -> int:
    """Return an input with the image `value`; ValueError where there is none."""
    return _solve(_eliminate(columns)[0], value)


def invert(columns: Sequence[int], rows: int) -> Columns:
    """Return the inverse of a map onto `rows` bits; ValueError, with the rank, unless it is one to one and onto."""
    found = rank(_checked(columns, rows))
    if not len(columns) == rows == found:
        raise ValueError(f"a map of {len(columns)} bits to {rows} bits with rank {found} has no inverse")
    return pseudo_invert(columns, rows)


def pseudo_invert(columns: Sequence[int], rows: int) -> Columns:
    """Return a right inverse, so that `columns` after it is the identity; ValueError unless the map is onto."""
    pivots = _eliminate(_checked(columns, rows))[0]
    if len(pivots) < rows:
        raise ValueError(f"a map of rank {len(pivots)} to {rows} bits has no right inverse")
    return tuple(_solve(pivots, 1 << j) for j in range(rows))


def invert_and_compose(first: Iterable[int], second: Iterable[int]) -> Columns:
    """Return C with ``second`` after C = ``first``; ValueError where the image of `second` lacks one of `first`."""
    pivots = _eliminate(second)[0]
    return tuple(_solve(pivots, column) for column in first)


def _eliminate(columns: Iterable[int]) -> tuple[_Pivots, list[int]]:
    """Return the pivots, and the sets of columns that add up to 0."""
    pivots: _Pivots = {}
    dependent: list[int] = []
    for k, column in enumerate(columns):
        vector, taken = _reduced(pivots, as_column(column), 1 << k)
        if vector:
            pivots[vector.bit_length()] = (vector, taken)
        else:
            dependent.append(taken)
    return pivots, dependent


def _reduced(pivots: _Pivots, vector: int, taken: int) -> tuple[int, int]:
    """Return what is left of a vector after elimination, and the columns that went into it."""
    while vector and (pivot := pivots.get(vector.bit_length())):
        vector ^= pivot[0]
        taken ^= pivot[1]
    return vector, taken


def _solve(pivots: _Pivots, value: int) -> int:
    rest, taken = _reduced(pivots, as_column(value), 0)
    if rest:
        raise ValueError(f"{value:#x} is not in the image of the map: no input is sent to it")
    return taken


def as_column(value: object) -> int:
    """Return a column as it is, of any width; ValueError unless it is a plain integer from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"column {str(value)[:80]}: a plain integer from 0 is needed")
    return value


def _checked(columns: Sequence[int], rows: int | None = None) -> Columns:
    checked = tuple(as_column(column) for column in columns)
    if rows is not None and (wide := [column for column in checked if column >> rows]):
        raise ValueError(f"column {wide[0]:#x}: does not fit {rows} rows")
    return checked


# --- columns as vectors of digits ------------------------------------------------------------------------------------


def join(parts: Iterable[int], sizes: Iterable[int]) -> int:
    """Return the number of the given digits, the first one lowest; sizes are the bases of the digits."""
    value, scale = 0, 1
    for part, size in zip(parts, sizes, strict=True):
        value, scale = value + part * scale, scale * size
    return value


def split(value: int, sizes: Iterable[int]) -> list[int]:
    """Return the digits of a number, the first one lowest; what is above them is dropped."""
    parts = []
    for size in sizes:
        value, part = divmod(value, size)
        parts.append(part)
    return parts


def mode(steps: Iterable[Sequence[int]], stride: Callable[[Sequence[int]], Any]) -> tuple[Any, Any]:
    """Return shape and stride of the mode whose bit k moves by ``steps[k]``: steps that double are one leaf."""
    runs: list[tuple[int, Sequence[int]]] = []
    for step in steps:
        if runs and list(step) == [part * runs[-1][0] for part in runs[-1][1]]:
            runs[-1] = (runs[-1][0] * 2, runs[-1][1])
        else:
            runs.append((2, step))
    if len(runs) < 2:
        return (runs[0][0], stride(runs[0][1])) if runs else (1, 0)
    return tuple(extent for extent, _ in runs), tuple(stride(step) for _, step in runs)


def grown(tile: list[int], to: Sequence[int], dims: Iterable[int]) -> list[list[int]]:
    """Return the unit vectors that grow a tile to a size, dimension by dimension; the tile grows with them."""
    bases = []
    for d in dims:
        while tile[d] < to[d]:
            bases.append([tile[d] * (k == d) for k in range(len(tile))])
            tile[d] *= 2
    return bases


def cut(steps: Vectors, sizes: Sequence[int], keep: bool = True) -> list[list[int]]:
    """Return vectors with 0 for the parts outside a shape, without those that vanish unless `keep`."""
    inside = [[part * (part < size) for part, size in zip(step, sizes, strict=True)] for step in steps]
    return [new for new, old in zip(inside, steps, strict=True) if keep or any(new) or not any(old)]


def as_list(given: object, where: str) -> list[Any]:
    """Return a list or tuple as a list; ValueError for anything else."""
    if not isinstance(given, list | tuple):
        raise ValueError(f"{where}: a list is needed, found {str(given)[:80]}")
    return list(given)


def as_vectors(given: object, where: str, sizes: Iterable[int] | None = None) -> list[tuple[int, ...]]:
    """Return vectors as tuples; ValueError unless each has one digit per size, below it."""
    vectors = [tuple(as_int(part, where) for part in as_list(v, where)) for v in as_list(given, where)]
    bounds = [1 << MAX_BITS] * len(vectors[0] if vectors else ()) if sizes is None else list(sizes)
    for k, v in enumerate(vectors):
        if len(v) != len(bounds) or not 0 < len(v) <= MAX_RANK:
            raise ValueError(f"{where}: vector {k} has {len(v)} numbers, expected {len(bounds)}")
        if wrong := [part for part, bound in zip(v, bounds, strict=True) if not 0 <= part < bound]:
            raise ValueError(f"{where}: vector {k} has {wrong[0]}, outside the shape")
    return vectors


def span(vectors: Vectors) -> list[int]:
    """Return the shape that vectors span, [1] if there are none."""
    return [1 << reduce(or_, parts).bit_length() for parts in zip(*vectors, strict=True)] or [1]


def as_powers(given: object, where: str, count: int) -> list[int]:
    """Return a list of so many numbers; ValueError unless each is a power of two."""
    numbers = as_list(given, where)
    if len(numbers) != count:
        raise ValueError(f"{where}: {len(numbers)} numbers, expected {count}")
    return [1 << log2(number, where) for number in numbers]


def as_shape(given: object) -> list[int]:
    """Return a shape of powers of two; ValueError for others, more than MAX_RANK dimensions or 2**MAX_BITS elements."""
    extents = as_list(given, "shape")
    if not 0 < len(extents) <= MAX_RANK:
        raise ValueError(f"shape: {len(extents)} dimensions, allowed are 1 to {MAX_RANK}")
    sizes = as_powers(extents, "shape", len(extents))
    if width(sizes) > MAX_BITS:
        raise ValueError(f"shape: more than 2**{MAX_BITS} elements")
    return sizes


def as_order(given: object, rank: int) -> list[int]:
    """Return a permutation of 0..rank-1; ValueError for anything else."""
    dims = as_list(given, "order")
    if len(dims) != rank or sorted(as_int(d, "order") for d in dims) != list(range(rank)):
        raise ValueError(f"order {str(dims)[:80]}: each of 0..{rank - 1} is needed once")
    return dims


def log2(value: object, where: str = "extent") -> int:
    """Return the binary logarithm; ValueError unless the value is a power of two."""
    number = as_int(value, where)
    if number < 1 or number & (number - 1):
        raise ValueError(f"{where}: {number} is not a power of two")
    return number.bit_length() - 1


def width(sizes: Iterable[int]) -> int:
    """Return the bits of digits of the given sizes, powers of two."""
    return sum(size.bit_length() - 1 for size in sizes)


# --- banks -----------------------------------------------------------------------------------------------------------


def bank_conflicts(registers: Columns, lanes: Columns, others: Columns, element_bits: int) -> int:
    """Return the extra passes of a warp's access to shared memory of 32 banks of 32 bits: 0 is conflict-free.

    The columns send bits of the register number, of the lane and of all else to the element offset.  A thread
    moves as many elements at once, up to 128 bits, as registers alone tell apart and in order; then only as many
    lanes take part in a pass as fill the banks.  Their offsets span a space, its image in the banks another, and
    each dimension lost doubles the passes.  As in Triton, elements narrower than a bank count as banks of their
    own.  ValueError unless `element_bits` is a power of two up to 128.
    """
    if element_bits not in (1, 2, 4, 8, 16, 32, 64, 128):
        raise ValueError(f"elements of {element_bits!s:.40} bits: allowed are the powers of two up to 128")
    every = (*registers, *lanes, *others)
    vector = 1  # elements that one access of a thread moves
    while vector * element_bits < ACCESS_BITS and vector in registers:
        if sum(1 for column in every if column & vector) != 1:
            break
        vector *= 2
    phases = max(vector * element_bits // BANK_BITS, 1)
    together = lanes[: max(0, len(lanes) - phases.bit_length() + 1)]
    row = BANKS * BANK_BITS // element_bits
    return (1 << rank(together) - rank(column % row for column in together)) - 1
