"""A layer as steps: its attention and its feed forward, each behind its norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from workloads.layers.compressed import compressed_steps
from workloads.layers.feed_forward import feed_forward_steps
from workloads.layers.latent import latent_steps
from workloads.layers.linear import linear_steps
from workloads.layers.products import with_passes
from workloads.layers.residual import before, in_streams
from workloads.layers.setting import RESULT, STREAM, Setting
from workloads.layers.softmax import softmax_steps
from workloads.model.attention import LatentAttention, SoftmaxAttention
from workloads.model.compressed import CompressedAttention
from workloads.model.linear import LinearAttention
from workloads.model.model import Layer
from workloads.sequence import Step
from workloads.values import Part


def layer_steps(layer: Layer, setting: Setting, name: str, count: int) -> list[Step]:
    """Return the steps of `count` equal layers; their names begin with `name`.

    Raises ValueError for an attention that has no kernels, or sizes that the group does not divide.
    """
    steps = [
        *in_streams(layer, "", _attention(layer, setting), setting),
        *in_streams(layer, "mlp ", _feed_forward(layer, setting), setting),
    ]
    return [_named(step, name, count) for step in with_passes(steps, setting)]


def _named(step: Step, name: str, count: int) -> Step:
    """Return a step of a kind of layers, with values of its own but for those that pass from layer to layer."""

    def own(value: str) -> str:
        return value if value in (RESULT, STREAM) else f"{name} {value}"

    values = {
        tensor: replace(value, value=own(value.value)) if isinstance(value, Part) else own(value)
        for tensor, value in step.values.items()
    }
    return replace(step, name=f"{name} {step.name}", count=count, values=values)


def _feed_forward(layer: Layer, setting: Setting) -> Iterator[Step]:
    yield before("mlp ", setting, layer, "mlp normed")
    yield from feed_forward_steps(layer.feed_forward, setting)


def _attention(layer: Layer, setting: Setting) -> Iterator[Step]:
    attention: Any = layer.attention
    yield before("", setting, layer, "normed")
    if isinstance(attention, SoftmaxAttention):
        yield from softmax_steps(attention, setting)
    elif isinstance(attention, LatentAttention):
        yield from latent_steps(attention, setting)
    elif isinstance(attention, LinearAttention):
        yield from linear_steps(attention, setting)
    elif isinstance(attention, CompressedAttention):
        yield from compressed_steps(attention, setting)
    else:
        raise ValueError(f"model: attention {attention.kind} has no kernels")
