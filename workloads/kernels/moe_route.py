"""Routing on the vector unit: from the router's logits to the experts of every token and their weights.

Logits are fp32, as the product before leaves them. Softmax or logistic scores, the k largest, renormalised or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwmodel.assembler import Region
from hwmodel.machine import Machine
from hwmodel.program import NONE, Program, Tensor
from layouts.notation import named
from workloads.batch import Batch
from workloads.kernels import model_sizes
from workloads.kernels.base import check_knobs, knob, knob_layout, require_options
from workloads.kernels.rowwise import RowKnobs, RowPhase, Step, Strip, bands
from workloads.model import Model
from workloads.placement import place

LOGITS, WEIGHTS, IDS = range(3)
SCORINGS = ("softmax", "sigmoid")
RENORMALISE = ("yes", "no")


@dataclass(frozen=True)
class Problem:
    """`tokens` of which each chooses `topk` of `experts`."""

    tokens: int
    experts: int
    topk: int


@dataclass(frozen=True)
class Knobs(RowKnobs):
    """What the search may choose; scoring and renormalise are the model's."""

    scoring: str = knob("softmax", "how logits become scores", choices=SCORINGS)
    renormalise: str = knob("yes", "whether the weights of a token add up to one", choices=RENORMALISE)
    layout: str = knob("token expert", "where the logits lie, outermost first", axes="token, expert")


def shape(model: Model | None, batch: Batch | None, options: Mapping[str, int]) -> Problem:
    """Return the problem of the sizes tokens, experts and topk."""
    given = model_sizes.experts(model) if model else {}
    sizes = require_options("moe-route", options, ("tokens", "experts", "topk"), given=given)
    if sizes["topk"] > sizes["experts"]:
        raise ValueError(f"options: size topk is {sizes['topk']}; allowed: at most the experts ({sizes['experts']})")
    return Problem(**sizes)


def canonical(problem: Problem, knobs: Knobs) -> tuple[Any, ...]:
    """Return a key that is equal for knobs of one meaning: layouts by their function."""
    layout = repr(_tensors(problem, knobs)[LOGITS].layout.key)
    return (layout, knobs.scoring, knobs.renormalise, knobs.tile_rows, knobs.stages)


def compile(problem: Problem, knobs: Knobs, machine: Machine, seed: int) -> Program:
    """Return the program. Raises ValueError naming a knob that is out of range, or what does not fit and by how much.

    `seed` is not used: nothing is drawn.
    """
    check_knobs(knobs)
    tensors = place(_tensors(problem, knobs), machine)
    kernel = route(problem.experts, problem.topk, (LOGITS, WEIGHTS, IDS), knobs, knobs.scoring, knobs.renormalise)
    phase = kernel.assemble(tensors, bands(problem.tokens, 1, 1, machine.spec.cores.count), machine)
    machine.require_fit(phase, {"tile_rows": knobs.tile_rows, "stages": knobs.stages})
    return Program("moe-route", tensors, (phase,))


def route(
    experts: int, topk: int, numbers: tuple[int, int, int], tiles: RowKnobs, scoring: str, renormalise: str
) -> RowPhase:
    """Return the phase from logits (token, expert) to weights and expert numbers (token, choice), tensors `numbers`."""
    logits, weights, ids = numbers
    height, kept = tiles.tile_rows, int(renormalise == "yes")
    return RowPhase(
        "route",
        height,
        1,
        1,
        tiles.stages,
        (Strip("logits", height, experts, lambda t: Region(logits, {"token": t.span()})),),
        (
            Strip("weights", height, topk, lambda t: Region(weights, {"token": t.span()})),
            Strip("ids", height, topk, lambda t: Region(ids, {"token": t.span()})),
        ),
        (Step(f"route_{scoring}", ("weights", "ids", "logits"), lambda t: (t.height, experts, topk, kept)),),
    )


def choice_tensors(tokens: int, topk: int) -> list[Tensor]:
    """Return weights and expert numbers of the choices (token, choice)."""
    choices = named("token choice", {"token": tokens, "choice": topk})
    return [Tensor("weights", choices, "fp32", NONE, "cache"), Tensor("ids", choices, "int32", NONE, "cache")]


def _tensors(problem: Problem, knobs: Knobs) -> list[Tensor]:
    logits = knob_layout(knobs, "layout", {"token": problem.tokens, "expert": problem.experts})
    return [Tensor("logits", logits, "fp32", NONE, "cache"), *choice_tensors(problem.tokens, problem.topk)]
