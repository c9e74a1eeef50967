from __future__ import annotations

import pytest

from hwmodel import reference
from hwmodel.engine import simulate
from hwmodel.ideal import IDEALS, idealised
from hwmodel.machine import Machine
from hwmodel.program import Program
from hwmodel.spec import load_machine
from workloads.kernels import decode_attention, gemm

NPU = Machine(load_machine("npu-hbm3"))


def product(m: int, n: int, k: int, **knobs: object) -> Program:
    return gemm.compile(gemm.Problem(m, n, k, "bf16"), gemm.Knobs(**knobs), NPU, 0)  # type: ignore[arg-type]


def attention(contexts: tuple[int, ...]) -> Program:
    return decode_attention.compile(
        decode_attention.Problem(8, 8, 128, "bf16", contexts), decode_attention.Knobs(), NPU, 0
    )


def test_a_machine_without_dram_has_no_rows_to_idealise() -> None:
    machine = Machine(load_machine("npu-sram"))
    assert not IDEALS["dram_rows"].applies(machine)
    assert IDEALS["bank_conflicts"].applies(machine)


def test_a_machine_without_a_tlb_has_no_misses_of_it_to_idealise() -> None:
    assert not IDEALS["tlb"].applies(NPU)
    assert IDEALS["tlb"].applies(Machine(load_machine("h100-sxm")))


def spread(hashes: tuple[str, ...], **changes: object) -> Machine:
    return Machine(NPU.spec.with_overrides({"hbm.address_map.hashes": hashes, **changes}))


def test_addresses_are_spread_otherwise_where_the_map_does_not_follow_the_rule_and_main_memory_has_one() -> None:
    applies = IDEALS["address_map"].applies
    assert applies(NPU)
    assert applies(spread(()))
    assert not applies(spread(("irreducible",)))
    assert not applies(Machine(load_machine("h100-sxm")))
    assert not applies(Machine(load_machine("npu-sram")))


def test_a_map_whose_channels_have_no_bits_above_them_cannot_be_spread() -> None:
    fields = ("offset:5", "column", "bank_group", "bank", "row", "pseudo_channel", "channel", "stack")
    linear = spread((), **{"hbm.address_map.fields": fields})
    assert not IDEALS["address_map"].applies(linear)
    assert idealised(linear, ["address_map"]).spec.hash == linear.spec.hash


def test_a_product_whose_pitch_meets_in_few_channels_takes_what_it_takes_on_a_machine_with_the_rule() -> None:
    program = product(256, 512, 1024)
    real, free = simulate(program, NPU), simulate(program, idealised(NPU, ["address_map"]))
    assert free.makespan_fs < 0.5 * real.makespan_fs
    assert free.makespan_fs == simulate(program, spread(("irreducible",))).makespan_fs


def test_a_shared_cache_that_bounds_a_run_is_an_obstacle_of_machines_that_have_one() -> None:
    assert not IDEALS["shared_cache"].applies(NPU)
    narrow = Machine(
        load_machine("h100-sxm").with_overrides(
            {"cores.count": 4, "shared_cache.bandwidth": "150 GB/s", "shared_cache.outstanding_misses": 64}
        )
    )
    assert IDEALS["shared_cache"].applies(narrow)
    program = gemm.compile(gemm.Problem(256, 256, 256, "bf16"), gemm.Knobs(tile_m=64, tile_n=64), narrow, 0)
    free = idealised(narrow, ["shared_cache"])
    real, gained = simulate(program, narrow), simulate(program, free)
    assert real.metrics()["limited_by"] == "shared cache" != gained.metrics()["limited_by"]
    assert gained.makespan_fs < 0.8 * real.makespan_fs
    assert reference.simulate(program, free).makespan_fs == gained.makespan_fs
    assert free.memory_request_fs == narrow.memory_request_fs


def test_an_unknown_idealisation_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown 'dram_row'; known: dram_rows"):
        idealised(NPU, ["dram_row"])


def test_conflicts_vanish_without_bank_conflicts_and_nothing_else_moves() -> None:
    program = product(256, 512, 512, sram_layout="row-major")
    real, free = simulate(program, NPU), simulate(program, idealised(NPU, ["bank_conflicts"]))
    assert sum(unit.conflict_cycles for unit in real.sram.values()) > 0
    assert sum(unit.conflict_cycles for unit in free.sram.values()) == 0
    assert free.sram_busy_fs < real.sram_busy_fs
    assert free.traffic == real.traffic


def test_rows_that_open_at_once_make_no_burst_wait_for_its_row() -> None:
    program = attention((700,) * 4)
    real, free = simulate(program, NPU), simulate(program, idealised(NPU, ["dram_rows"]))
    assert free.makespan_fs < real.makespan_fs
    assert free.stalls["hbm"].get("refresh", 0) == 0 < real.stalls["hbm"]["refresh"]


@pytest.mark.parametrize("machine", ["npu-hbm3", pytest.param("h100-sxm", marks=pytest.mark.slow)])
def test_with_all_else_ideal_a_stream_takes_what_the_memory_pins_take(machine: str) -> None:
    """The roofline's memory side: bytes over peak, within what the ends of the queues and the last activate take."""
    real = Machine(load_machine(machine))
    problem = decode_attention.Problem(8, 8, 128, "bf16", (4096,) * 8)
    program = decode_attention.compile(problem, decode_attention.Knobs(), real, 0)
    result = simulate(program, idealised(real, IDEALS))
    pins_fs = (result.hbm_read_bytes + result.hbm_write_bytes) / result.hbm_peak_bytes_per_second * 1e15
    assert pins_fs <= result.makespan_fs < 1.05 * pins_fs


def test_with_all_else_ideal_a_large_product_takes_what_the_matrix_units_take() -> None:
    """The roofline's compute side: multiply-accumulates over the rate of all cores, and loading the first tiles."""
    slow = Machine(NPU.spec.with_overrides({"cores.matrix.macs_per_cycle": 2048}))
    program = product(2048, 2048, 1088, tile_m=256, tile_n=256)  # two whole waves, rows spread over all channels
    macs_fs = 2048 * 2048 * 1088 / (slow.spec.cores.count * 2048 * slow.spec.cores.clock) * 1e15
    result = simulate(program, idealised(slow, [name for name in IDEALS if name != "matrix"]))
    assert macs_fs <= result.makespan_fs < 1.05 * macs_fs
