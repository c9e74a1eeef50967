"""What stands between the mixers of layers: norms with the residual, or the residual streams."""

from __future__ import annotations

from collections.abc import Iterator

from workloads.kernels import norm, stream_collapse, stream_expand
from workloads.layers.products import product
from workloads.layers.setting import Setting, by_rows
from workloads.model.model import Layer
from workloads.sequence import Step

ROUNDS = stream_collapse.SIZES["rounds"]


def rms_norm(title: str, setting: Setting, columns: int, *, residual: bool = True, rows: int | None = None) -> Step:
    """Return a norm of the new tokens (or `rows`), with the addition of what the layer before has computed."""
    problem = norm.Problem(setting.tokens if rows is None else rows, columns, setting.dtype, residual)
    return by_rows(title, "rms-norm", problem, norm.Knobs, setting)


def collapse(title: str, setting: Setting, streams: int, hidden: int, *, head: bool = False) -> Iterator[Step]:
    """Yield the steps that read residual streams: their logits, the weights and the sum; before a `head`, the sum."""
    problem = stream_collapse.Problem(setting.tokens, streams, hidden, 0 if head else ROUNDS, setting.dtype)
    yield product(f"{title}stream logits", setting, problem.weights, streams * hidden)
    yield by_rows(f"{title}streams in", "collapse-streams", problem, stream_collapse.Knobs, setting)


def in_streams(layer: Layer, title: str, mixer: Iterator[Step], s: Setting) -> Iterator[Step]:
    """Yield the steps of a mixer, between those that read and write residual streams where there are several."""
    hidden, streams = layer.attention.hidden, layer.streams
    if streams > 1:
        yield from collapse(title, s, streams, hidden)
    yield from mixer
    if streams > 1:
        problem = stream_expand.Problem(s.tokens, streams, hidden, s.dtype)
        yield by_rows(f"{title}streams out", "expand-streams", problem, stream_expand.Knobs, s)
