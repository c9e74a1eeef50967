"""A layer of experts: route, permute, first product, SwiGLU, second product, finalise, one phase each.

In a format whose activations are not of 16 bits (`moe_formats`) a pass quantises the tokens first, once each: what is
permuted, or read by a shared expert, are quantised rows with their scales; another pass precedes the second product.
Activations between the phases are tensors in memory, so that their traffic counts. `rows: gathered` leaves out the
permutation (the first product gathers the tokens), `fused: yes` the phase of the activation (it is the epilogue of the
first product). A shared expert, which every token passes, has products of its own before the results are added up.

Which experts a token goes to is known when the program is made (tables of rows); the phase of the routing computes the
same choices from the logits where these were what the routing was made from, and the weights in any case. The product
that gives the logits is a plain GEMM and not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwmodel.machine import Machine
from hwmodel.program import NONE, Phase, Program, Tensor
from layouts.notation import NamedLayout, named
from workloads.batch import Batch
from workloads.kernels.activation import swiglu_rows
from workloads.kernels.base import knob, knob_layout, named_option
from workloads.kernels.gemm_grid import number_of
from workloads.kernels.model_sizes import expert_layer
from workloads.kernels.moe_finalize import finalize
from workloads.kernels.moe_formats import (
    FORMATS,
    Format,
    activation_tensors,
    check_format,
    expert_scales,
    weight_tensors,
)
from workloads.kernels.moe_gemm import SOURCES, Product, TileKnobs, multiply, tile_key
from workloads.kernels.moe_permute import permute
from workloads.kernels.moe_placement import PINNED, Homes, homes_of, place_weights
from workloads.kernels.moe_problem import (
    Routed,
    RoutingKnobs,
    check,
    choice_rows,
    expert_items,
    groups_of,
    routed_sizes,
    routing_key,
    routing_of,
    sorted_tokens,
)
from workloads.kernels.moe_quantise import permute_quantised, quantise_rows
from workloads.kernels.moe_route import RENORMALISE, SCORINGS, choice_tensors, route
from workloads.kernels.rowwise import RowKnobs, RowPhase, bands
from workloads.model import Model
from workloads.routing import Groups, Routing, contiguous

FUSED = ("no", "yes")
# What of an expert a placement keeps together.
PLACED = ("w13", "scales w13", "scales 1", "w2", "scales w2", "scales 2")
OF_SHARED = ("shared w13", "scales shared w13", "shared scales 1", "shared w2", "scales shared w2", "shared scales 2")
WEIGHTS = (*PLACED, *OF_SHARED)


@dataclass(frozen=True, kw_only=True)
class Problem(Routed):
    """Routed tokens of `hidden` elements, experts of `inter`; `shared`: inter of the shared expert, 0 for none.

    All experts are in one `format` of `moe_formats`.
    """

    hidden: int
    inter: int
    shared: int = 0
    format: str = "16-bit"

    @property
    def form(self) -> Format:
        return check_format(self.format, self.dtype)


@dataclass(frozen=True, kw_only=True)
class Knobs(TileKnobs, RoutingKnobs):
    """What the search may choose; scoring and renormalise are the model's."""

    rows: str = knob("contiguous", "groups of rows: contiguous, masked, or gathered in gemm1", choices=SOURCES)
    fused: str = knob("no", "whether SwiGLU is the epilogue of gemm1", choices=FUSED)
    scoring: str = knob("softmax", "how logits become scores", choices=SCORINGS)
    renormalise: str = knob("yes", "whether the weights of a token add up to one", choices=RENORMALISE)
    tile_rows: int = knob(8, "rows in a tile of the row-wise phases, at most", least=1)
    tile_columns: int = knob(2048, "columns in a tile of the row-wise phases, at most", least=1)
    row_stages: int = knob(2, "tiles in flight in the row-wise phases", least=1)
    layout_w13: str = knob(
        "expert half n k", "where gate and up weights lie, outermost first", axes="expert, half, n, k"
    )
    layout_w2: str = knob("expert n k", "where the down weights lie, outermost first", axes="expert, n, k")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int | str]) -> Problem:
    """Return the problem of tokens and of the sizes that a model gives: experts, topk, hidden, inter and shared.

    The `format` is that of the weights and activations of experts.
    """
    form, given = named_option(options, "format", tuple(FORMATS))
    optional = {"hidden": 0, "shared": 0, "max_rows": 0}
    sizes = routed_sizes("moe", given, model, ("inter",), optional, expert_layer)
    check_format(form, sizes["dtype"])
    if not sizes["hidden"]:
        raise ValueError("options: size hidden is missing; kernel moe needs it, or a model")
    return Problem(**sizes, format=form)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    layouts = [repr(layout.key) for layout in _weight_layouts(problem, knobs, problem.experts)]
    ways = (knobs.rows, knobs.fused, knobs.scoring, knobs.renormalise)
    widest = max(problem.hidden, problem.inter, problem.shared)
    rows = (knobs.tile_rows, min(knobs.tile_columns, widest), knobs.row_stages)
    return (*routing_key(problem, knobs), *layouts, *ways, *rows, *tile_key(knobs, problem.form))


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` draws the routing where the problem has none.
    """
    check(knobs)
    routing = routing_of(problem, knobs, seed)
    grouping = "masked" if knobs.rows == "masked" else "contiguous"
    groups = groups_of(problem, routing, grouping, knobs.tile_m)
    homes = homes_of(knobs.schedule, knobs.placement, routing.counts, knobs.copies, machine)
    wanted = _tensors(problem, knobs, routing, groups, homes.seats)
    tensors = place_weights(wanted, PLACED, knobs.placement, machine)
    layer = _Layer(problem, knobs, machine, tensors)
    phases = [
        layer.route(),
        *layer.quantise_tokens(),
        *([] if knobs.rows == "gathered" else [layer.permute(routing, groups)]),
        *layer.experts(routing, groups, homes),
        *(layer.shared() if problem.shared else []),
        layer.finalize(),
    ]
    return Program("moe", tensors, tuple(phases))


def _weight_layouts(problem: Problem, knobs: Knobs, seats: int) -> tuple[NamedLayout, NamedLayout]:
    per_byte = problem.form.b.per_byte
    sizes = {"expert": seats, "half": 2, "n": problem.inter, "k": -(-problem.hidden // per_byte)}
    down = {"expert": seats, "n": problem.hidden, "k": -(-problem.inter // per_byte)}
    return knob_layout(knobs, "layout_w13", sizes), knob_layout(knobs, "layout_w2", down)


def _tensors(problem: Problem, knobs: Knobs, routing: Routing, groups: Groups, seats: int) -> list[Tensor]:
    logits = named("token expert", {"token": problem.tokens, "expert": problem.experts})
    tensors = [
        Tensor("x", _rows(problem.tokens, problem.hidden), problem.dtype, NONE, "cache"),
        Tensor("logits", logits, "fp32", NONE, "cache"),
        *choice_tensors(problem.tokens, problem.topk),
        sorted_tokens(routing),
        choice_rows(routing, groups),
        *_weights(problem, "", *_weight_layouts(problem, knobs, seats), problem.inter),
        *_quantised(problem, "x", problem.tokens, problem.hidden, gathered=True),
        *([] if knobs.rows == "gathered" else _permuted(problem, groups.rows)),
        *_activations(problem, knobs, "", groups.rows, problem.inter),
        Tensor("y", _rows(groups.rows, problem.hidden), problem.dtype, NONE, "cache"),
        Tensor("out", _rows(problem.tokens, problem.hidden), problem.dtype, NONE, "cache"),
    ]
    if problem.shared:
        per_byte = problem.form.b.per_byte
        sizes = {"expert": 1, "half": 2, "n": problem.shared, "k": -(-problem.hidden // per_byte)}
        down = {"expert": 1, "n": problem.hidden, "k": -(-problem.shared // per_byte)}
        layouts = named("expert half n k", sizes), named("expert n k", down)
        tensors += [
            *_weights(problem, "shared ", *layouts, problem.shared),
            *_activations(problem, knobs, "shared ", problem.tokens, problem.shared),
            Tensor("shared y", _rows(problem.tokens, problem.hidden), problem.dtype, NONE, "cache"),
        ]
    return tensors


def _weights(problem: Problem, prefix: str, w13: NamedLayout, w2: NamedLayout, inter: int) -> list[Tensor]:
    """Return the weights of experts with their scales."""
    form, hidden, dtype = problem.form, problem.hidden, problem.dtype
    experts = w13.size("expert")
    return [
        *weight_tensors(form, f"{prefix}w13", w13, inter, hidden, dtype),
        *weight_tensors(form, f"{prefix}w2", w2, hidden, inter, dtype),
        *([expert_scales(f"{prefix}{name}", experts) for name in ("scales 1", "scales 2")] if form.scaled else []),
    ]


def _quantised(problem: Problem, source: str, rows: int, columns: int, *, gathered: bool = False) -> list[Tensor]:
    """Return what a pass makes of activations: elements and scales, and the scale that it is given."""
    form = problem.form
    if not form.quantise:
        return []
    given = Tensor(f"scale of {source}", named("one value", {"one": 1, "value": 1}), "fp32", NONE)
    made = activation_tensors(form, f"quantised {source}", rows, columns, problem.dtype, gathered=gathered)
    return [*made, *([given] if form.scaled else [])]


def _permuted(problem: Problem, rows: int) -> list[Tensor]:
    """Return the rows of tokens in the order of their experts, as the first product takes them."""
    if problem.form.quantise:
        return activation_tensors(problem.form, "quantised permuted", rows, problem.hidden, problem.dtype)
    return [Tensor("permuted", _rows(rows, problem.hidden), problem.dtype, NONE, "cache")]


def _rows(rows: int, columns: int) -> NamedLayout:
    return named("row column", {"row": rows, "column": columns})


def _activations(problem: Problem, knobs: Knobs, prefix: str, rows: int, inter: int) -> list[Tensor]:
    """Return the tensors between the products: gate and up, unless they stay in the scratchpad, what follows, and that
    quantised."""
    both = named("row half inter", {"row": rows, "half": 2, "inter": inter})
    activated = named("row inter", {"row": rows, "inter": inter})
    kept = [] if knobs.fused == "yes" else [Tensor(f"{prefix}gate and up", both, problem.dtype, NONE, "cache")]
    return [
        *kept,
        Tensor(f"{prefix}activated", activated, problem.dtype, NONE, "cache"),
        *_quantised(problem, f"{prefix}activated", rows, inter),
    ]


class _Layer:
    """Makes the phases; tensors go by their names."""

    def __init__(self, problem: Problem, knobs: Knobs, machine: Machine, tensors: tuple[Tensor, ...]) -> None:
        self._problem, self._knobs, self._machine, self._tensors = problem, knobs, machine, tensors
        self._number = {tensor.name: i for i, tensor in enumerate(tensors)}

    def _numbers(self, *names: str) -> Any:
        return tuple(self._number[name] for name in names)

    def _tile(self, columns: int) -> tuple[int, int, int]:
        return self._knobs.tile_rows, min(self._knobs.tile_columns, columns), columns

    def _assemble(self, kernel: RowPhase, items: Mapping[str, Any]) -> Phase:
        phase = kernel.assemble(self._tensors, items, self._machine)
        names = ("tile_rows", "tile_columns", "row_stages")
        self._machine.require_fit(phase, {name: getattr(self._knobs, name) for name in names})
        return phase

    def _bands(self, columns: int, width: int) -> Mapping[str, Any]:
        return bands(self._problem.tokens, columns, width, self._machine.spec.cores.count)

    def route(self) -> Phase:
        problem, knobs = self._problem, self._knobs
        tiles = RowKnobs(knobs.tile_rows, knobs.row_stages)
        numbers = self._numbers("logits", "weights", "ids")
        kernel = route(problem.experts, problem.topk, numbers, tiles, knobs.scoring, knobs.renormalise)
        return self._assemble(kernel, self._bands(1, 1))

    def quantise_tokens(self) -> list[Phase]:
        return self._quantise("x", *self._everyone(), self._problem.hidden)

    def permute(self, routing: Routing, groups: Groups) -> Phase:
        form, tile, stages = self._problem.form, self._tile(self._problem.hidden), self._knobs.row_stages
        if not form.quantise:
            numbers = self._numbers("x", "sorted tokens", "permuted")
            return self._assemble(*permute(routing, groups, numbers, tile, stages))
        tokens, permuted = (self._quantised(name) for name in ("x", "permuted"))
        numbers = tokens, permuted, self._number["sorted tokens"]
        return self._assemble(*permute_quantised(form, numbers, tile, stages, (routing, groups)))

    def experts(self, routing: Routing, groups: Groups, homes: Homes) -> list[Phase]:
        gathered = self._knobs.rows == "gathered"
        table = self._number["sorted tokens"] if gathered else NONE
        return self._mlp(routing, groups, homes, "", "x" if gathered else "permuted", table, self._problem.inter)

    def shared(self) -> list[Phase]:
        """The same for an expert that has every token."""
        routing, groups = self._everyone()
        homes = homes_of("static", "interleaved", routing.counts, 0, self._machine)
        return self._mlp(routing, groups, homes, "shared ", "x", NONE, self._problem.shared)

    def _everyone(self) -> tuple[Routing, Groups]:
        """Return the routing of every token to one expert."""
        tokens = self._problem.tokens
        everyone = Routing(1, np.zeros((tokens, 1), np.int32), np.ones((tokens, 1), np.float32))
        return everyone, contiguous(everyone, 1)

    def _mlp(
        self, routing: Routing, groups: Groups, homes: Homes, prefix: str, source: str, table: int, inter: int
    ) -> list[Phase]:
        knobs = self._knobs
        if routing.experts == 1 and knobs.schedule in PINNED:
            knobs = replace(knobs, schedule="static")  # one expert on one core would leave the others idle
        fused = knobs.fused == "yes"
        activated, hidden = f"{prefix}activated", self._problem.hidden
        made = activated if fused else f"{prefix}gate and up"
        tokens = routing, groups
        first = self._product(f"{prefix}gemm1", source, f"{prefix}w13", made, hidden, halves=True)
        second = self._product(f"{prefix}gemm2", activated, f"{prefix}w2", f"{prefix}y", inter)
        return [
            multiply(replace(first, fused=fused, table=table), self._tensors, (*tokens, homes), knobs, self._machine),
            *([] if fused else [self._activate(*tokens, prefix, inter)]),
            *self._quantise(activated, *tokens, inter),
            multiply(second, self._tensors, (*tokens, homes), knobs, self._machine),
        ]

    def _product(self, name: str, source: str, weights: str, to: str, k: int, *, halves: bool = False) -> Product:
        """Return a product of the layer's format: of activations as a pass before it has quantised them."""
        form = self._problem.form
        if source == "x":
            form = form.gathered()
        a = f"quantised {source}" if form.quantise else source
        sums = weights.replace("w13", "scales 1").replace("w2", "scales 2")
        names = (a, weights, to, f"scales {a}", f"scales {weights}", sums)
        of_a, of_b, c, scales_a, scales_b, scales = (number_of(self._tensors, other) for other in names)
        return Product(name, of_a, of_b, c, k, form, scales_a, scales_b, scales, halves)

    def _quantise(self, source: str, routing: Routing, groups: Groups, columns: int) -> list[Phase]:
        """Return the pass that quantises activations, if the format has one."""
        form = self._problem.form
        if not form.quantise:
            return []
        numbers = self._number[source], *self._quantised(source), number_of(self._tensors, f"scale of {source}")
        rows = quantise_rows(
            f"quantise {source}", form, numbers, self._tile(columns), self._knobs.row_stages, (routing, groups)
        )
        return [self._assemble(*rows)]

    def _quantised(self, source: str) -> tuple[int, int]:
        """Return the tensors of elements and of scales that activations have been made."""
        elements = f"quantised {source}"
        return number_of(self._tensors, elements), number_of(self._tensors, f"scales {elements}")

    def _activate(self, routing: Routing, groups: Groups, prefix: str, inter: int) -> Phase:
        tile = self._tile(inter)
        both, activated = self._numbers(f"{prefix}gate and up", f"{prefix}activated")
        kernel = swiglu_rows(f"{prefix}activation", both, activated, tile, self._knobs.row_stages)
        return self._assemble(kernel, expert_items(routing, groups, *tile))

    def finalize(self) -> Phase:
        tile = self._tile(self._problem.hidden)
        numbers = self._numbers("y", "rows of choices", "weights", "out")
        shared = self._number["shared y"] if self._problem.shared else None
        kernel = finalize(self._problem.topk, numbers, tile, self._knobs.row_stages, shared)
        return self._assemble(kernel, self._bands(tile[2], tile[1]))
