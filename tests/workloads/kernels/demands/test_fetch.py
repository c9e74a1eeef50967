from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.dma import Regions
from hwmodel.machine import Machine
from hwmodel.program import walk
from hwmodel.spec import load_machine
from workloads.kernels import decode_attention as attention
from workloads.kernels.demands.fetch import tile_transfers

ORDERS = [" ".join(axes) for axes in permutations(("page", "kv", "head", "token", "dim"))]
MACHINE = Machine(load_machine("npu-hbm3"))


@settings(max_examples=30)
@given(
    text=st.sampled_from(ORDERS),
    page_size=st.sampled_from([1, 2, 6, 8, 16]),
    tile=st.sampled_from([1, 2, 4, 8, 12, 16]),
    dim=st.sampled_from([4, 16, 24]),
    per_transfer=st.sampled_from([1, 2]),
)
def test_no_tile_of_a_program_takes_fewer_transfers(
    text: str, page_size: int, tile: int, dim: int, per_transfer: int
) -> None:
    """Against what the DMA engine's compiled code finds, of all whole tiles of keys and values."""
    transfer = per_transfer * MACHINE.burst_bytes
    axes = (("kv", 2), ("head", 3), ("token", page_size), ("dim", dim))
    least = tile_transfers(text, axes, tile, "bf16", transfer)
    problem, knobs = attention.Problem(3, 3, dim, "bf16", (37,)), attention.Knobs(text, page_size, tile=tile)
    program = attention.compile(problem, knobs, MACHINE, 0)
    phase = program.phases[0]
    regions = Regions(program, phase, MACHINE.burst_bytes, transfer)
    whole = 0
    for instruction, variables in walk(phase, 0, range(3)):
        region = regions.region(instruction.tile, variables)
        if program.tensors[region.tensor].name == "kv" and region.elements == tile * dim:
            assert tile * dim * 2 <= least * transfer <= len(regions.bursts(region)) * MACHINE.burst_bytes
            whole += 1
    assert whole == 2 * 3 * (37 // tile)


def test_runs_of_a_few_tokens_take_a_transfer_each() -> None:
    axes = (("kv", 2), ("head", 4), ("token", 16), ("dim", 128))
    assert tile_transfers("page kv head token dim", axes, 16, "bf16", 32) == 128
    assert tile_transfers("page kv head dim token", axes, 4, "bf16", 32) == 128
    assert tile_transfers("page kv head dim token", axes, 4, "bf16", 64) == 64
