"""A step of a whole model as a sequence of kernels: embedding, layers by kind, head.

Layers that are alike, down to how their weights are stored, are one set of steps with a count, so that each kind is
simulated once. What a layer computes is added to the residual stream by the norm of the next one; before the first
layer that is a stream of nothing.
"""

from __future__ import annotations

from dataclasses import replace

from hwmodel.machine import Machine
from workloads.kernels import embedding
from workloads.kernels.base import require_16_bit
from workloads.layers.formats import MODEL, by_formats, formats_of
from workloads.layers.products import product
from workloads.layers.residual import collapse, residual_norm, rms_norm
from workloads.layers.setting import RESULT, Setting, by_rows
from workloads.layers.steps import layer_steps
from workloads.model import Model
from workloads.scheduled import Scheduled
from workloads.sequence import Step


def model_steps(
    model: Model,
    work: Scheduled,
    machine: Machine,
    *,
    parallel: int = 1,
    seed: int = 0,
    weights: str = MODEL,
    cache: str = MODEL,
) -> list[Step]:
    """Return the steps of a pass through the model that computes the new tokens of `work`.

    `parallel`: devices of the tensor-parallel group that divide heads, inner sizes and the vocabulary of embedding and
    head; the steps are those of one of them, without the exchange between them. `seed`: what `sequence.plan` will be
    called with, so that it finds programs compiled. `weights` and `cache`: how weights and caches are stored, as the
    model has them or one of `formats.WEIGHTS` and `formats.CACHES`. Raises ValueError for a model with parts that no
    kernel computes, or that the group does not divide.
    """
    if parallel < 1:
        raise ValueError(f"parallel: {parallel}; allowed: from 1")
    dtype = require_16_bit("step", model.dtype)
    setting = Setting(work, parallel, dtype, machine, seed)
    rows = setting.tokens
    vocabulary = -(-model.vocabulary // parallel)  # of a row that another device has, some row is read
    first = embedding.Problem(rows, vocabulary, model.hidden, dtype)
    steps = [by_rows("embedding", "embedding", first, embedding.Knobs, setting, {"out": RESULT})]
    formats = formats_of(model, weights, cache)
    for group in model.groups:
        for each, positions in by_formats(group.positions, formats):
            name = f"{group.layer.kind}, layer {positions[0]}:"
            steps += layer_steps(group.layer, replace(setting, formats=each), name, len(positions))
    if model.streams > 1:
        steps += collapse("last ", setting, model.streams, model.hidden, head=True)
        steps.append(rms_norm("last norm", setting, model.hidden, "last collapsed", "last normed"))
    else:
        steps.append(residual_norm("last norm", setting, model.hidden, "last normed"))
    takes = "last normed" if work.sampled == rows else ""
    return [*steps, product("head", setting, vocabulary, model.hidden, takes, m=work.sampled)]
