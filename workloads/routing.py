"""Routing: which experts of a mixture every token goes to, and with which weight.

Second step of the data's path in a layer of experts: from it follow the tokens of every expert (a drawn vector, not an
average), the order of the rows sorted by expert, and the groups in which grouped products take them. Choices are drawn
without replacement: expert e has the popularity p_e, and a token takes the `topk` largest of log p_e + Gumbel noise
(Yellott 1977: successive draws in proportion to p); its weights are the softmax of what it took.

Popularities are uniform, Zipf's (the r-th expert has r^-s) or drawn from a power law, as serving benchmarks do; tokens
that follow one another may repeat each other's choices; a recorded routing is read from a CSV or an .npz file.
Not modelled: groups of experts that a token must stay within, capacity limits and dropped tokens, and dependence
between layers.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodel.npz_file import Wanted, read_npz
from layouts.notation import nearest_first

MAX_TOKENS = 1 << 20  # assumed: more tokens in one step is taken for a mistyped count
MAX_EXPERTS = 1 << 12  # assumed: eight times the largest published layer
MAX_FILE_BYTES = 1 << 26  # assumed: of a recorded routing
MAX_CHOICES = 1 << 23  # assumed: eight of each of the most tokens, in one recorded routing
POWER_LAW_SPAN = 100.0  # assumed: the most popular expert is at most so many times as popular as the least
DISTRIBUTIONS = ("uniform", "zipf", "power-law")

_ARRAYS = (
    Wanted("experts", tuple(f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u")), MAX_CHOICES, 2),
    Wanted("weights", ("float16", "float32", "float64"), MAX_CHOICES, 2, optional=True),
)

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Routing:
    """The choices of one step: `ids` int32 [tokens, topk], distinct in a row and below `experts`; `weights` fp32 alike.

    The arrays are copied and read-only. Raises ValueError, naming the token, for ids or weights that are not allowed:
    weights are finite and not negative.
    """

    experts: int
    ids: NDArray[np.int32]
    weights: NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        _check_count("experts", self.experts, MAX_EXPERTS)
        if self.ids.ndim != 2 or self.ids.size == 0 or self.ids.dtype.kind not in "iu":
            raise ValueError(f"routing: ids are {self.ids.dtype} {self.ids.shape}; allowed: integers [tokens, topk]")
        if self.weights.shape != self.ids.shape:
            raise ValueError(f"routing: weights are {self.weights.shape}; allowed: as ids, {self.ids.shape}")
        _check_count("tokens", len(self.ids), MAX_TOKENS)
        _check_ids(self.ids, self.experts)
        allowed = (self.weights >= 0) & (self.weights <= np.finfo(np.float32).max)
        wrong = np.flatnonzero(~allowed.all(axis=1))
        if wrong.size:
            token = int(wrong[0])
            raise ValueError(f"routing: token {token}: weights {self.weights[token].tolist()}; allowed: from 0, finite")
        for name, dtype in (("ids", np.int32), ("weights", np.float32)):
            array = getattr(self, name).astype(dtype)  # a copy
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __repr__(self) -> str:
        """Name the contents by a digest: two routings with one text are equal."""
        digest = hashlib.sha256(self.ids.tobytes() + self.weights.tobytes()).hexdigest()[:16]
        return f"Routing(tokens={self.tokens}, topk={self.topk}, experts={self.experts}, digest={digest})"

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def topk(self) -> int:
        return int(self.ids.shape[1])

    @cached_property
    def counts(self) -> IntArray:
        """The tokens of every expert, int64 [experts]."""
        return np.bincount(self.ids.ravel(), minlength=self.experts).astype(np.int64)

    @cached_property
    def order(self) -> IntArray:
        """The choices token · topk + choice sorted by expert, those of one expert by token, int64 [tokens · topk]."""
        return np.argsort(self.ids.ravel(), kind="stable").astype(np.int64)

    @cached_property
    def first(self) -> IntArray:
        """Where the choices of every expert begin in `order`, int64 [experts]."""
        return np.cumsum(self.counts) - self.counts


@dataclass(frozen=True, eq=False)
class Groups:
    """Where the rows of every expert lie in the permuted activations: from `starts[e]`, of `rows` in all.

    `room[e]` rows belong to expert e; what is beyond its tokens is padding.
    """

    starts: IntArray
    room: IntArray
    rows: int

    def rows_of(self, routing: Routing) -> IntArray:
        """Return the row of every choice, int64 [tokens · topk]."""
        expert = routing.ids.ravel()[routing.order]
        rows = np.empty(len(expert), np.int64)
        rows[routing.order] = self.starts[expert] + np.arange(len(expert)) - routing.first[expert]
        return rows


def contiguous(routing: Routing, block: int) -> Groups:
    """Return groups one after another, each padded to a multiple of `block` rows."""
    room = -(-routing.counts // block) * block
    return Groups(np.cumsum(room) - room, room, int(room.sum()))


def masked(routing: Routing, max_rows: int = 0) -> Groups:
    """Return groups with room for `max_rows` each, of which an expert fills its tokens; 0: for all tokens.

    Raises ValueError naming an expert that has more tokens.
    """
    room = max_rows or routing.tokens
    if int(routing.counts.max()) > room:
        expert = int(routing.counts.argmax())
        raise ValueError(f"routing: expert {expert} has {routing.counts[expert]} tokens; at most {room} have room")
    rooms = np.full(routing.experts, room, np.int64)
    return Groups(np.arange(routing.experts, dtype=np.int64) * room, rooms, routing.experts * room)


def popularity(name: str, experts: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how popular every expert is, [experts], adding up to one: one of DISTRIBUTIONS.

    "zipf": the r-th has r^-exponent, in an order that `rng` draws. "power-law": each is drawn from a density in
    proportion to x^-exponent between 1 and POWER_LAW_SPAN (by inverting its distribution function), as benchmarks of
    serving kernels do for skewed loads. Raises ValueError for another name or a negative exponent.
    """
    _check_count("experts", experts, MAX_EXPERTS)
    if not 0 <= exponent < 100:
        raise ValueError(f"routing: exponent is {exponent}; allowed: from 0 to below 100")
    if name == "uniform":
        found = np.ones(experts)
    elif name == "zipf":
        found = rng.permutation(np.arange(1, experts + 1)).astype(np.float64) ** -exponent
    elif name == "power-law":
        found = _power_law(rng.random(experts), 1.0 - exponent)
    else:
        raise ValueError(f"routing: unknown {name!r}; known: {nearest_first(name, DISTRIBUTIONS)}")
    share: NDArray[np.float64] = found / found.sum()
    return share


def _power_law(u: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return where the distribution function reaches `u`."""
    if abs(power) < 1e-9:  # its limit: the logarithm is uniform
        return np.asarray(POWER_LAW_SPAN**u)
    return np.asarray((1 + u * (POWER_LAW_SPAN**power - 1)) ** (1 / power))


def draw(tokens: int, topk: int, popular: NDArray[np.float64], rng: np.random.Generator) -> Routing:
    """Return a routing in which every token chooses `topk` of the experts, independently, by their popularity."""
    _check_count("tokens", tokens, MAX_TOKENS)
    _check_count("topk", topk, len(popular))
    with np.errstate(divide="ignore"):
        scores = np.log(popular) + rng.gumbel(size=(tokens, len(popular)))
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    kept = np.take_along_axis(scores, ids, axis=1)
    weights = np.exp(kept - kept[:, :1])
    return Routing(
        len(popular), ids.astype(np.int32), (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    )


def repeated(routing: Routing, rho: float, rng: np.random.Generator, lengths: Sequence[int] = ()) -> Routing:
    """Return the routing in which a token takes its predecessor's choices with probability `rho`.

    `lengths`: the tokens of every sequence, one after another; the first token of each has no predecessor. Without them
    all tokens are one sequence. Raises ValueError for another probability, or lengths that do not add up.
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"routing: rho is {rho}; allowed: a probability")
    parts = np.array(lengths or (routing.tokens,), np.int64)
    if parts.min() < 1 or parts.sum() != routing.tokens:
        raise ValueError(f"routing: lengths add up to {parts.sum()}; allowed: from 1 each, {routing.tokens} in all")
    own = rng.random(routing.tokens) >= rho
    own[np.cumsum(parts) - parts] = True
    source = np.maximum.accumulate(np.where(own, np.arange(routing.tokens), 0))
    return Routing(routing.experts, routing.ids[source], routing.weights[source])


def read_routing(path: str | os.PathLike[str], experts: int) -> Routing:
    """Return a recorded routing from a file: an .npz archive where its name ends so, otherwise CSV.

    CSV: a line per token, its expert numbers, then their weights; the header names the columns expert_0, expert_1, ...,
    weight_0, weight_1, ... in this order. Archive: `experts` int[tokens, topk] and, where they are known, `weights`
    float[tokens, topk], otherwise 1 / topk each; nothing in it is unpickled. Raises ValueError naming the file, the
    place and the value where it is not such a file, or larger than 64 MiB, or than MAX_CHOICES in an archive.
    """
    path = Path(path)
    ids, weights = _from_npz(path) if path.suffix == ".npz" else _from_csv(path)
    try:
        return Routing(experts, ids, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _from_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        arrays = read_npz(path, _ARRAYS)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    ids = arrays["experts"]
    return ids, arrays.get("weights", np.full(ids.shape, 1 / ids.shape[1]))


def _from_csv(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    rows = list(csv.reader(io.StringIO(_read_text(path), newline="")))
    header = rows[0] if rows else []
    topk = len(header) // 2
    wanted = [f"{name}_{i}" for name in ("expert", "weight") for i in range(topk)]
    if not topk or header != wanted:
        allowed = "expert_0, ..., weight_0, ..., with a weight for each expert, which only an archive may leave out"
        raise ValueError(f"{path}: line 1: {','.join(header)[:80]!r}; allowed: {allowed}")
    ids, weights = np.empty((2, len(rows) - 1, topk))
    for number, row in enumerate(rows[1:]):
        where = f"{path}: line {number + 2}"
        if len(row) != 2 * topk:
            raise ValueError(f"{where}: {len(row)} values; allowed: {2 * topk}")
        ids[number] = [_whole(text, where) for text in row[:topk]]
        weights[number] = [_real(text, where) for text in row[topk:]]
    return ids.astype(np.int64), weights


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{path}: larger than {MAX_FILE_BYTES} bytes, the most a routing may have")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start}: not UTF-8 text") from None


def _whole(text: str, where: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 8:
        return int(text)
    raise ValueError(f"{where}: expert {text[:40]!r}; allowed: an integer from 0")


def _real(text: str, where: str) -> float:
    try:
        return float(text[:40])
    except ValueError:
        raise ValueError(f"{where}: weight {text[:40]!r}; allowed: a number") from None


def _check_count(name: str, value: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"routing: {name} is {value!r}; allowed: an integer from 1 to {most}")


def _check_ids(ids: NDArray[np.int32], experts: int) -> None:
    outside = np.argwhere((ids < 0) | (ids >= experts))
    if outside.size:
        token, choice = outside[0].tolist()
        raise ValueError(f"routing: token {token}: expert {ids[token, choice]}; allowed: 0 to {experts - 1}")
    in_order = np.sort(ids, axis=1)
    twice = np.flatnonzero((in_order[:, 1:] == in_order[:, :-1]).any(axis=1))
    if twice.size:
        token = int(twice[0])
        raise ValueError(f"routing: token {token}: experts {ids[token].tolist()}; allowed: each once")
