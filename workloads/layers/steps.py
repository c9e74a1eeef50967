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
from workloads.layers.residual import in_streams, rms_norm
from workloads.layers.setting import Setting
from workloads.layers.softmax import softmax_steps
from workloads.model.attention import LatentAttention, SoftmaxAttention
from workloads.model.compressed import CompressedAttention
from workloads.model.linear import LinearAttention
from workloads.model.model import Layer
from workloads.sequence import Step


def layer_steps(layer: Layer, setting: Setting, name: str, count: int) -> list[Step]:
    """Return the steps of `count` equal layers; their names begin with `name`.

    Raises ValueError for an attention that has no kernels, or sizes that the group does not divide.
    """
    added = layer.streams == 1  # the norm before a mixer adds up what the mixer before has computed
    mixers = _attention(layer.attention, setting, added), feed_forward_steps(layer.feed_forward, setting, added)
    mixed = [*in_streams(layer, "", mixers[0], setting), *in_streams(layer, "mlp ", mixers[1], setting)]
    steps = with_passes(mixed, setting)
    return [replace(step, name=f"{name} {step.name}", count=count) for step in steps]


def _attention(attention: Any, setting: Setting, residual: bool) -> Iterator[Step]:
    yield rms_norm("norm", setting, attention.hidden, residual=residual)
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
