"""What stands between the mixers of layers: norms with the residual, or the residual streams."""

from __future__ import annotations

from collections.abc import Iterator

from workloads.kernels import norm, stream_collapse, stream_expand
from workloads.layers.products import product
from workloads.layers.setting import RESULT, STREAM, Setting, by_rows
from workloads.model.model import Layer
from workloads.sequence import Step
from workloads.values import Part

ROUNDS = stream_collapse.SIZES["rounds"]


def rms_norm(
    title: str, setting: Setting, columns: int, takes: str | Part, leaves: str | Part, *, rows: int | None = None
) -> Step:
    """Return a norm of the new tokens (or `rows`) of a value."""
    problem = norm.Problem(setting.tokens if rows is None else rows, columns, setting.dtype)
    return by_rows(title, "rms-norm", problem, norm.Knobs, setting, {"x": takes, "out": leaves})


def residual_norm(title: str, setting: Setting, columns: int, leaves: str) -> Step:
    """Return a norm of the residual stream, to which it adds what the mixer before has computed."""
    problem = norm.Problem(setting.tokens, columns, setting.dtype, True)
    values = {"x": RESULT, "residual": STREAM, "total": STREAM, "out": leaves}
    return by_rows(title, "rms-norm", problem, norm.Knobs, setting, values)


def collapse(title: str, setting: Setting, streams: int, hidden: int, *, head: bool = False) -> Iterator[Step]:
    """Yield the steps that read residual streams: their logits, the weights and the sum; before a `head`, the sum."""
    problem = stream_collapse.Problem(setting.tokens, streams, hidden, 0 if head else ROUNDS, setting.dtype)
    logits, weights = f"{title}stream logits", {} if head else {"weights": f"{title}stream weights"}
    yield product(logits, setting, problem.weights, streams * hidden, STREAM, logits)
    values = {"streams": STREAM, "logits": logits, "out": f"{title}collapsed", **weights}
    yield by_rows(f"{title}streams in", "collapse-streams", problem, stream_collapse.Knobs, setting, values)


def in_streams(layer: Layer, title: str, mixer: Iterator[Step], s: Setting) -> Iterator[Step]:
    """Yield the steps of a mixer, between those that read and write residual streams where there are several."""
    hidden, streams = layer.attention.hidden, layer.streams
    if streams > 1:
        yield from collapse(title, s, streams, hidden)
    yield from mixer
    if streams > 1:
        problem = stream_expand.Problem(s.tokens, streams, hidden, s.dtype)
        values = {"streams": STREAM, "result": RESULT, "weights": f"{title}stream weights", "out": STREAM}
        yield by_rows(f"{title}streams out", "expand-streams", problem, stream_expand.Knobs, s, values)


def before(title: str, setting: Setting, layer: Layer, leaves: str) -> Step:
    """Return the norm before a mixer, of the residual stream or of what was read from several; `title` names it."""
    hidden = layer.attention.hidden
    if layer.streams == 1:
        return residual_norm(f"{title}norm", setting, hidden, leaves)
    return rms_norm(f"{title}norm", setting, hidden, f"{title}collapsed", leaves)
