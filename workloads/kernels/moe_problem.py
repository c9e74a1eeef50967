"""What the kernels of a layer of experts share: the routed tokens, how they are drawn, and the tables that follow.

A routing is given with the problem (recorded, or computed from logits), or drawn by the knobs and the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodel.program import NONE, Tensor
from layouts.notation import named
from workloads.kernels.base import check_knobs, knob, require_16_bit, require_options
from workloads.kernels.model_sizes import experts
from workloads.model import Model
from workloads.numbering import within_owners
from workloads.routing import DISTRIBUTIONS, Groups, Routing, contiguous, draw, masked, popularity, repeated

GROUPINGS = ("contiguous", "masked")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Routed:
    """`tokens` of which each goes to `topk` of `experts`.

    `max_rows` is the room of an expert in masked groups, 0 that for all tokens. Raises ValueError for a `routing` of
    other sizes.
    """

    tokens: int
    experts: int
    topk: int
    dtype: str
    max_rows: int = 0
    routing: Routing | None = None

    def __post_init__(self) -> None:
        if self.topk > self.experts:
            raise ValueError(f"options: size topk is {self.topk}; allowed: at most the experts ({self.experts})")
        if self.routing is not None:
            found = self.routing.tokens, self.routing.topk, self.routing.experts
            if found != (self.tokens, self.topk, self.experts):
                wanted = self.tokens, self.topk, self.experts
                raise ValueError(f"routing: tokens, topk and experts are {found}; allowed: {wanted}")


@dataclass(frozen=True, kw_only=True)
class RoutingKnobs:
    """How tokens choose their experts where the problem gives no routing."""

    routing: str = knob("uniform", "how popular the experts are", choices=DISTRIBUTIONS)
    skew_percent: int = knob(100, "exponent of zipf or power-law, in hundredths", least=0)
    repeat_percent: int = knob(0, "how often a token repeats the experts of the token before, in hundredths", least=0)


def routed_sizes(
    kernel: str,
    options: Mapping[str, int],
    model: Model | None,
    required: Sequence[str],
    optional: Mapping[str, int],
    gives: Callable[[Model], Mapping[str, int]] = experts,
) -> dict[str, Any]:
    """Return the fields of a problem: tokens, experts, topk, those of `required` and `optional`, and the dtype.

    A model `gives` the sizes that are not among the options.
    """
    given = gives(model) if model else {}
    sizes: dict[str, Any] = require_options(kernel, options, ("tokens", "experts", "topk", *required), optional, given)
    return sizes | {"dtype": require_16_bit(kernel, model.dtype if model else "bf16")}


def check(knobs: Any) -> None:
    """Raise ValueError naming the first knob that is not allowed."""
    check_knobs(knobs)
    if knobs.repeat_percent > 100:
        raise ValueError(f"repeat_percent: {knobs.repeat_percent}; allowed: an integer from 0 to 100")
    if knobs.skew_percent >= 10000:
        raise ValueError(f"skew_percent: {knobs.skew_percent}; allowed: an integer from 0 to 9999")


def routing_of(problem: Routed, knobs: RoutingKnobs, seed: int) -> Routing:
    """Return the routing of the problem, or one drawn with `seed`."""
    if problem.routing is not None:
        return problem.routing
    rng = np.random.default_rng(seed)
    popular = popularity(knobs.routing, problem.experts, knobs.skew_percent / 100, rng)
    return repeated(draw(problem.tokens, problem.topk, popular, rng), knobs.repeat_percent / 100, rng)


def routing_key(problem: Routed, knobs: RoutingKnobs) -> tuple[Any, ...]:
    """Return a key of what the routing depends on besides problem and seed."""
    if problem.routing is not None:
        return ()
    return (knobs.routing, knobs.skew_percent if knobs.routing != "uniform" else 0, knobs.repeat_percent)


def groups_of(problem: Routed, routing: Routing, grouping: str, block: int) -> Groups:
    """Return where the rows of every expert lie: one of GROUPINGS, contiguous ones padded to `block` rows."""
    return contiguous(routing, block) if grouping == "contiguous" else masked(routing, problem.max_rows)


def index_tensor(name: str, values: Array) -> Tensor:
    """Return an index tensor with its contents, in the shared cache where there is one."""
    entries = named("entry", {"entry": len(values)})
    return Tensor(name, entries, "int32", NONE, "cache", values.astype(np.int32))


def sorted_tokens(routing: Routing) -> Tensor:
    """Return the table of the token of every choice, sorted by expert, without padding."""
    return index_tensor("sorted tokens", routing.order // routing.topk)


def choice_rows(routing: Routing, groups: Groups) -> Tensor:
    """Return the table of the permuted row of every choice, by token."""
    return index_tensor("rows of choices", groups.rows_of(routing))


def expert_items(routing: Routing, groups: Groups, height: int, width: int, columns: int) -> dict[str, Array]:
    """Return items of a row-wise kernel that cover the rows of tokens, and not those of padding, in tiles.

    Columns: `row` in the permuted rows, `sorted` in the table of sorted tokens, `rows`, and the first `column`.
    """
    tiles = cut(routing.counts, groups.room, height)
    across = -(-columns // width)
    expert, first = tiles["expert"], tiles["first"]
    starts = {"row": groups.starts[expert] + first, "sorted": routing.first[expert] + first, "rows": tiles["rows"]}
    items = {name: np.repeat(values, across) for name, values in starts.items()}
    return items | {"column": np.tile(np.arange(across) * width, len(expert))}


def cut(counts: Array, room: Array, height: int) -> dict[str, Array]:
    """Return the tiles of at most `height` rows of every expert that has any: expert, first row in it, rows, room.

    `room`: the rows that a tile may take with padding.
    """
    expert, tile = within_owners(-(-counts // height))
    first = tile * height
    return {
        "expert": expert,
        "first": first,
        "rows": np.minimum(counts[expert] - first, height),
        "room": np.minimum(room[expert] - first, height),
    }
