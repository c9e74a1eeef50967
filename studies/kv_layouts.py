"""Which layout and page size should a KV cache have: NHD or HND, K and V in one page or apart, all layers in a block?

    python studies/kv_layouts.py --page studies/kv_layouts.md

One layer's decode attention of one batch, the same kernel with the same schedule each time; what differs is where the
cache's elements lie, and how many tokens a page has. Layouts are those of vLLM, FlashInfer, SGLang and TensorRT-LLM.
Where a block holds the pages of all layers, a layer's page is as far from the next one as the pages of the others take;
layouts name the layer for that, and the program reads layer 0. Pages are dealt at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from explorer.programs import machine_of
from explorer.study_page import (
    Answer,
    Picture,
    Row,
    Table,
    command,
    compared,
    in_parallel,
    least,
    listed,
    most,
    number,
    ties,
    where,
)
from hwmodel.engine import simulate
from hwmodel.machine import Machine
from hwmodel.program import Program, Tensor
from layouts import Layout
from layouts.notation import NamedLayout, named
from workloads.batch import uniform
from workloads.kernels import decode_attention
from workloads.model import load_model
from workloads.placement import place

MACHINES = ("h100-sxm", "npu-hbm3")
PAGES = (16, 64, 256)  # tokens
CONTEXT = 1024
NHD = "NHD, K and V in a page"
LAYOUTS = {  # outermost first
    NHD: "layer page kv token head dim",
    "HND, K and V in a page": "layer page kv head token dim",
    "NHD, K and V apart": "layer kv page token head dim",
    "HND, K and V apart": "layer kv page head token dim",
    "NHD, all layers in a block": "page layer kv token head dim",
    "HND, all layers in a block": "page layer kv head token dim",
    "HND, layers inside heads": "page kv head layer token dim",
}
KNOBS = decode_attention.Knobs(split_tokens=512)


@dataclass(frozen=True)
class Served:
    """A model, the layer whose attention is simulated, on how many devices, and how many sequences one step has."""

    model: str
    parallel: int
    sequences: int
    options: tuple[tuple[str, int], ...] = ()


MODELS = {
    "llama-3.1-8b": Served("llama-3.1-8b", 1, 8),
    "llama-3.1-70b on 8 devices": Served("llama-3.1-70b", 8, 64),
    "gpt-oss-20b, full attention": Served("gpt-oss-20b", 1, 16, (("layer", 1),)),
}


@dataclass(frozen=True)
class Case:
    """A layout and a page size of a model's cache, on a machine."""

    machine: str
    model: str
    layout: str
    page_size: int
    context: int = CONTEXT


def laid_out(program: Program, layout: str, layers: int, machine: Machine) -> Program:
    """Return the program with its cache in a layout that names the layers, too; it reads the first of them."""
    tensors = [_laid_out(tensor, layout, layers) if tensor.name == "kv" else tensor for tensor in program.tensors]
    return replace(program, tensors=place(tensors, machine))


def _laid_out(tensor: Tensor, layout: str, layers: int) -> Tensor:
    axes = tensor.layout.axes
    whole = named(layout, {"layer": layers} | {axis: tensor.layout.size(axis) for axis in axes})
    modes = [(whole.leaves(axis) or ((1, 0),))[0] for axis in axes]
    shape, stride = zip(*modes, strict=True)
    return replace(tensor, layout=NamedLayout(axes, Layout(shape, stride)))


def measure(case: Case) -> Row:
    """Return the time of one case, what it reads, and what its bursts find."""
    machine, served = machine_of(case.machine), MODELS[case.model]
    model = load_model(served.model)
    problem = decode_attention.shape(model, uniform(served.sequences, case.context), dict(served.options))
    heads = {"heads_q": problem.heads_q // served.parallel, "heads_kv": problem.heads_kv // served.parallel}
    knobs = replace(KNOBS, page_size=case.page_size)
    program = decode_attention.compile(replace(problem, **heads), knobs, machine, 0)
    result = simulate(laid_out(program, LAYOUTS[case.layout], len(model.layers), machine), machine)
    cache = next(traffic for traffic in result.traffic if traffic.name == "kv")
    return {
        "machine": case.machine,
        "model": case.model,
        "layout": case.layout,
        "page_size": case.page_size,
        "time_us": result.time_us,
        "bound_us": result.bound.total_fs / 1e9,
        "hbm_bandwidth_fraction": result.hbm_bandwidth_fraction,
        "descriptors": cache.descriptors,
        "activates": result.dram.activates,
    }


def sentences(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the answer in words."""
    pairs = dict.fromkeys((str(row["machine"]), str(row["model"])) for row in rows)
    best = dict.fromkeys(LAYOUTS, 0)
    for machine, model in pairs:
        mine = where(rows, machine=machine, model=model)
        for name in {str(row["layout"]) for row in ties(mine, "time_us")}:
            best[name] += 1
    first = max(best.values())
    found = [
        f"Most often among the fastest: {listed([name for name, times in best.items() if times == first])}, in {first} "
        f"of {len(pairs)} cases (a model on a machine)."
    ]
    return tuple(found + [_of(machine, model, rows) for machine, model in pairs])


def _of(machine: str, model: str, rows: Sequence[Row]) -> str:
    mine = where(rows, machine=machine, model=model)
    best, worst = least(mine, "time_us"), most(mine, "time_us")
    plain = where(mine, layout=NHD, page_size=min(PAGES))[0]
    sizes = where(mine, layout=best["layout"])
    spread = number(most(sizes, "time_us"), "time_us") / number(least(sizes, "time_us"), "time_us")
    best_us, plain_us, worst_us = (number(row, "time_us") for row in (best, plain, worst))
    return (
        f"{machine}, {model}: the fastest is {best['layout']} in pages of {best['page_size']}, {best_us:.2f} us; "
        f"against it NHD in pages of {plain['page_size']} takes {compared(plain_us, best_us)}, and the slowest, "
        f"{worst['layout']} in pages of {worst['page_size']}, {compared(worst_us, best_us)}. "
        f"Within the fastest layout the page size changes the time by {100 * (spread - 1):.1f} %."
    )


def study(jobs: int) -> Answer:
    """Return the answer of the whole study."""
    cases = [
        Case(machine, model, layout, page_size)
        for machine in MACHINES
        for model in MODELS
        for layout in LAYOUTS
        for page_size in PAGES
    ]
    rows = tuple(in_parallel(measure, cases, jobs))
    tables = [
        Table(
            f"{model} on {machine}",
            tuple(where(rows, machine=machine, model=model)),
            (Picture("page_size", "time_us", "layout", logarithmic=True),),
        )
        for machine in MACHINES
        for model in MODELS
    ]
    return Answer(
        "kv_layouts",
        "Which layout and page size should a KV cache have?",
        (
            f"{len(rows)} simulations: one layer's decode attention, sequences of {CONTEXT} tokens in shuffled pages "
            f"of {listed(PAGES)} tokens, tiles of {KNOBS.tile} tokens, {KNOBS.stages} stages, in parts of "
            f"{KNOBS.split_tokens} tokens.",
            *(f"{name}: {served.sequences} sequences." for name, served in MODELS.items()),
            *(f"{name}: {layout}." for name, layout in LAYOUTS.items()),
        ),
        sentences(rows),
        tuple(tables),
        (
            "What layouts with all layers in a block are made for, moving blocks between machines, was not simulated.",
            "One schedule for all, and contexts of one length; a schedule that suits a layout may change the order. "
            "Batches are small so that the study ends within minutes.",
            "Page tables cost issue cycles, not traffic; how fast DMA engines issue descriptors is assumed in the "
            "machine files. Decode times are held against measurements in studies/accuracy.md, differences of layouts "
            "are not.",
        ),
    )


if __name__ == "__main__":
    command(study, __doc__)
