"""Vector operations of one number each: sums, products, quotients and powers of two numbers, and functions of one.

Computed in fp32, rounded once to the dtype of the destination. The second number is that of another block, or the
scalar of the instruction (`_scalar`). gelu is the form with tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hwmodel.vector.operation import Operation, Work, read, rounded, write

Array = np.ndarray[Any, Any]


def _relu(x: Array) -> Array:
    positive: Array = np.maximum(x, np.float32(0))
    return positive


def _tanh(x: Array) -> Array:
    found: Array = np.tanh(x)
    return found


def _gelu(x: Array) -> Array:
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    found: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return found


def _power(x: Array, y: Any) -> Array:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # NaN and infinity are results, too
        found: Array = np.power(x, y)
        return found


def _quotient(x: Array, y: Any) -> Array:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        found: Array = np.divide(x, y)
        return found


# Counts of alu and exp per element. tanh x is 1 - 2 / (exp 2x + 1); gelu is a polynomial of 5 multiplications and
# additions, a tanh, and 3 more; a power is exp(y log x), where a logarithm counts as one exp.
UNARY: dict[str, tuple[Callable[[Array], Array], int, int]] = {
    "relu": (_relu, 1, 0),
    "tanh": (_tanh, 4, 1),
    "gelu": (_gelu, 12, 1),
}
BINARY: dict[str, tuple[Callable[[Array, Any], Array], int, int]] = {
    "add": (np.add, 1, 0),
    "mul": (np.multiply, 1, 0),
    "div": (_quotient, 1, 0),
    "pow": (_power, 1, 2),
}


def _of_one(function: Callable[[Array], Array]) -> Callable[..., None]:
    def values(blocks: list[Array], _: float, rows: int, columns: int) -> None:
        out, x = blocks
        out[:rows, :columns] = function(x[:rows, :columns].astype(np.float32)).astype(out.dtype)

    return values


def _of_two(function: Callable[[Array, Any], Array]) -> Callable[..., None]:
    def values(blocks: list[Array], _: float, rows: int, columns: int) -> None:
        out, x, y = blocks
        wide = (side[:rows, :columns].astype(np.float32) for side in (x, y))
        out[:rows, :columns] = function(*wide).astype(out.dtype)

    return values


def _of_scalar(function: Callable[[Array, Any], Array]) -> Callable[..., None]:
    def values(blocks: list[Array], scalar: float, rows: int, columns: int) -> None:
        out, x = blocks
        out[:rows, :columns] = function(x[:rows, :columns].astype(np.float32), np.float32(scalar)).astype(out.dtype)

    return values


def _operation(values: Callable[..., None], alu: int, exp: int, sources: int) -> Operation:
    def work(buffers: Any, rows: int, columns: int) -> Work:
        count = rows * columns
        return Work(alu=alu * count, exp=exp * count, convert=rounded(buffers, count))

    def touches(_: Any, rows: int, columns: int) -> Any:
        return write(0, rows, columns), *(read(1 + source, rows, columns) for source in range(sources))

    return Operation(work, touches, values)


OPERATIONS: dict[str, Operation] = {
    **{name: _operation(_of_one(function), alu, exp, 1) for name, (function, alu, exp) in UNARY.items()},
    **{name: _operation(_of_two(function), alu, exp, 2) for name, (function, alu, exp) in BINARY.items()},
    **{
        f"{name}_scalar": _operation(_of_scalar(function), alu, exp, 1) for name, (function, alu, exp) in BINARY.items()
    },
}
