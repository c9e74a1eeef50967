from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_kernels import small_program

from hwmodel import engine
from hwmodel.assembler import PhaseAssembler, Slot
from hwmodel.bounds import lower_bound
from hwmodel.description import HbmEnergySpec
from hwmodel.energy import Actions, Instructions, instructions, least, mac_fj, spent
from hwmodel.machine import Machine
from hwmodel.program import QUEUES, Op, Program, walk
from hwmodel.reference import simulate
from hwmodel.result import Result
from hwmodel.spec import load_machine, machine_names
from workloads.kernels import KERNELS, gemm
from workloads.kernels import decode_attention as attention

MachineMaker = Callable[..., Machine]
CLASSES = ("alu", "exp", "reduce", "convert")
FROM_THE_PROGRAM = ("sram", "matrix", "vector")
counts = st.integers(0, 10**12)
actions = st.builds(
    Actions,
    st.builds(
        Instructions,
        sram_read_bytes=counts,
        sram_write_bytes=counts,
        macs=st.dictionaries(st.sampled_from(["bf16", "fp16", "fp32", "fp8", "int8"]), counts),
        vector=st.dictionaries(st.sampled_from(CLASSES), counts),
    ),
    *[counts] * 8,
)
OF_HBM = [f.name for f in fields(Actions) if f.name not in ("instructions", "distributed_sram_bytes")]
suppress = [HealthCheck.function_scoped_fixture]


def energy_of_hbm(name: str) -> HbmEnergySpec | None:
    energy = load_machine(name).energy
    return energy and energy.hbm


def without_energy(name: str) -> Machine:
    return Machine(load_machine(name).model_copy(update={"energy": None}))


@given(done=actions, static_watts=st.integers(0, 500))
def test_the_energy_is_every_count_times_what_it_costs_once(
    done: Actions, static_watts: int, make_machine: MachineMaker
) -> None:
    spec = make_machine("h100-sxm", {"energy.static": f"{static_watts} W"}).spec.energy
    assert spec is not None
    moved = done.hbm_read_bytes + done.hbm_write_bytes
    chip, program = spec.chip, done.instructions
    expected = 764_000 * done.activates + 1_528_000 * done.bank_refreshes + 18_016 * moved + 6_400 * moved
    expected += 1_750 * done.cache_bytes + 8_920 * done.noc_bytes
    expected += 940 * (program.sram_read_bytes + program.sram_write_bytes)
    expected += sum(
        {"bf16": 413, "fp16": 504, "fp32": 1183, "fp8": 207, "int8": 70}[k] * n for k, n in program.macs.items()
    )
    expected += sum(chip.vector.model_dump()[name] * count for name, count in program.vector.items())
    expected += static_watts * done.time_fs  # a watt for a femtosecond is a femtojoule
    energy = spent(spec, done)
    assert energy.total_fj == expected == sum(energy.by_component_fj.values())


@given(done=actions, more=counts, name=st.sampled_from(OF_HBM))
def test_doing_more_of_anything_never_takes_less_energy(
    done: Actions, more: int, name: str, make_machine: MachineMaker
) -> None:
    spec = make_machine("npu-hbm3", {"energy.static": "70 W"}).spec.energy
    assert spec is not None
    less, greater = spent(spec, done), spent(spec, replace(done, **{name: getattr(done, name) + more}))
    assert all(less.by_component_fj[part] <= fj for part, fj in greater.by_component_fj.items())
    assert greater.total_fj > less.total_fj or more == 0 or name == "time_fs"


def walked(program: Program) -> Instructions:
    """Count with `walk`, one instruction after another; attention of head_dim 16 in bf16, and gemm."""
    found = Instructions(macs={}, vector=dict.fromkeys(CLASSES, 0))
    for phase in program.phases:
        for number in range(len(QUEUES)):
            for instruction, variables in walk(phase, number, range(len(phase.tasks))):
                sizes = [size(variables) for size in instruction.sizes]
                buffers = [phase.buffers[buffer] for buffer, _ in instruction.operands]
                if instruction.op is Op.MATMUL:
                    m, n, k = sizes
                    found.macs["bf16"] = found.macs.get("bf16", 0) + m * n * k
                    adds = instruction.accumulate is not None and instruction.accumulate(variables) != 0
                    found.sram_read_bytes += 2 * (m * k + n * k) + 4 * m * n * adds
                    found.sram_write_bytes += 4 * m * n
                elif instruction.op is Op.VECTOR:
                    work, read, written = vector(instruction.function, sizes, buffers[0].element_bytes)
                    for name, count in zip(CLASSES, work, strict=True):
                        found.vector[name] += count
                    found.sram_read_bytes += read
                    found.sram_write_bytes += written
                else:
                    tile = phase.tiles[instruction.tile]
                    tensor = program.tensors[tile["tensor"]]
                    size_bytes = tensor.element_bytes
                    for extent in tile["extent"][: len(tensor.layout.axes)]:
                        size_bytes *= phase.expression(extent)(variables)
                    count_transfer(found, instruction.op, size_bytes)
    return found


def count_transfer(found: Instructions, op: Op, size_bytes: int) -> None:
    if op is Op.LOAD:
        found.loaded_bytes += size_bytes
        found.sram_write_bytes += size_bytes
    else:
        found.stored_bytes += size_bytes
        found.sram_read_bytes += size_bytes


def vector(function: str, sizes: list[int], out_bytes: int) -> tuple[tuple[int, int, int, int], int, int]:
    """Return the operations by class, and the bytes read and written; scratch blocks are fp32."""
    if function == "softmax_step":
        r, c, _ = sizes
        read = 4 * (r * c + 2 * r + 16 * r)
        return (r * (2 * c + 16), r * (c + 1), 2 * r * c, r * c), read, out_bytes * r * c + 4 * (2 * r + 16 * r)
    if function == "normalise":
        r, c = sizes
        return (r * c, 0, 0, r * c), 4 * (r * c + r), out_bytes * r * c
    if function == "partial":
        r, c = sizes
        return (r * c, r, 0, 0), 4 * (r * c + 2 * r), out_bytes * r * (c + 1)
    if function == "combine":
        p, r, c = sizes
        return (2 * p * r * c, p * r, p * r, r * c), 4 * p * r * (c + 1), out_bytes * r * c
    p, r, c = sizes if function == "sum" else (1, *sizes)
    assert function in ("sum", "convert"), function
    return (p * r * c * (function == "sum"), 0, 0, r * c), 4 * p * r * c, out_bytes * r * c


@settings(max_examples=30, suppress_health_check=suppress)
@given(
    contexts=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    tile=st.sampled_from([7, 16, 64]),
    split=st.sampled_from([0, 20]),
    schedule=st.sampled_from(["static", "dynamic"]),
)
def test_the_counts_of_attention_are_those_of_walking_it(
    contexts: list[int], tile: int, split: int, schedule: str, make_machine: MachineMaker
) -> None:
    machine = make_machine("h100-sxm", {"cores.count": 3})
    problem = attention.Problem(4, 2, 16, "bf16", tuple(contexts))
    program = attention.compile(problem, attention.Knobs(tile=tile, split_tokens=split, schedule=schedule), machine, 0)
    assert instructions(program) == walked(program)


@settings(max_examples=20, suppress_health_check=suppress)
@given(
    m=st.integers(1, 150),
    n=st.integers(1, 150),
    k=st.integers(1, 150),
    tile_k=st.sampled_from([32, 64]),
    split_k=st.integers(1, 3),
)
def test_the_counts_of_gemm_are_those_of_walking_it_and_its_products_are_m_n_k(
    m: int, n: int, k: int, tile_k: int, split_k: int, make_machine: MachineMaker
) -> None:
    machine = make_machine("npu-hbm3", {"cores.count": 2})
    knobs = gemm.Knobs(tile_m=64, tile_n=64, tile_k=tile_k, split_k=split_k)
    program = gemm.compile(gemm.Problem(m, n, k, "bf16"), knobs, machine, 0)
    found, expected = instructions(program), walked(program)
    assert found.macs == {"bf16": m * n * k}
    assert {k: v for k, v in found.vector.items() if v} == {k: v for k, v in expected.vector.items() if v}
    assert replace(found, vector={}) == replace(expected, vector={})


def attended(machine: Machine) -> tuple[Program, Result]:
    """Return a small decode attention and its run."""
    problem = attention.Problem(8, 2, 64, "bf16", (300, 45, 700))
    program = attention.compile(problem, attention.Knobs(split_tokens=128), machine, 0)
    return program, simulate(program, machine)


@pytest.mark.parametrize("refresh", ["per-bank", "all-bank", "none"])
@pytest.mark.parametrize("name", ["h100-sxm", "npu-hbm3"])
def test_a_run_adds_up_what_it_counted_and_is_above_its_bound_in_every_component(
    name: str, refresh: str, make_machine: MachineMaker
) -> None:
    machine = make_machine(
        name, {"hbm.controller.refresh": refresh, "energy.static": "60 W", "cores.count": 4, "launch.latency": "4 us"}
    )
    program, result = attended(machine)
    energy, bound = result.energy, result.energy_bound
    assert energy is not None
    assert bound is not None
    parts, dram = energy.by_component_fj, result.dram
    assert parts["hbm activate"] == 764_000 * dram.activates > 0
    assert parts["hbm array"] == 18_016 * 32 * (dram.reads + dram.writes)
    assert parts["hbm io"] == 6_400 * 32 * (dram.reads + dram.writes)
    assert parts["hbm refresh"] == 1_528_000 * dram.refreshes * (32 if refresh == "all-bank" else 1)
    assert (parts["hbm refresh"] == 0) == (refresh == "none")
    moved = sum(t.load_fetched_bytes + t.store_written_bytes for t in result.traffic)
    assert parts["noc"] == moved * (8_920 if name == "h100-sxm" else 6_250)
    if name == "h100-sxm":  # what cores ask for passes the cache, and what it fetches and writes back
        cache = result.levels["shared cache"]
        assert parts["shared cache"] == 1_750 * (moved + cache.fetched + cache.written_back) > 0
    else:
        assert parts["shared cache"] == 0
    assert parts["static"] == 60 * result.makespan_fs
    metrics = result.metrics()
    assert {name for name in metrics if "energy" in name} == {"energy_pj", "energy_bound_pj", "energy_by_component_pj"}
    assert metrics["energy_pj"] == energy.total_fj / 1000 == sum(parts.values()) / 1000
    assert {part: round(1000 * pj) for part, pj in metrics["energy_by_component_pj"].items()} == parts
    assert bound == least(program, machine, lower_bound(program, machine))
    assert all(0 <= bound.by_component_fj[part] <= fj for part, fj in parts.items())
    assert {p: parts[p] for p in FROM_THE_PROGRAM} == {p: bound.by_component_fj[p] for p in FROM_THE_PROGRAM}


def test_a_main_memory_of_sram_takes_its_energy_per_byte_in_place_of_that_of_hbm(make_machine: MachineMaker) -> None:
    machine = make_machine("npu-sram", {"cores.count": 4, "noc.multicast_window": None})
    _, result = attended(machine)
    energy, bound = result.energy, result.energy_bound
    assert energy is not None
    assert bound is not None
    moved = sum(t.load_fetched_bytes + t.store_written_bytes for t in result.traffic)
    assert energy.by_component_fj["distributed sram"] == 1_750 * moved
    assert 0.9 < bound.by_component_fj["distributed sram"] / (1_750 * moved) <= 1
    assert not any(name.startswith("hbm") for name in energy.by_component_fj)


@pytest.mark.parametrize("name", [name for name in machine_names() if energy_of_hbm(name)])
def test_a_refresh_of_a_bank_takes_an_activate_for_every_row_that_falls_to_it(name: str) -> None:
    machine = Machine(load_machine(name))
    hbm = energy_of_hbm(name)
    assert hbm is not None
    refreshes = 32_000_000_000_000 // machine.ticks_to_fs(machine.timing.nREFI)  # in 32 ms, of each bank
    rows = machine.organisation.rows / refreshes
    assert hbm.refresh == pytest.approx(rows * hbm.activate, rel=2e-3)


def test_the_bytes_that_descriptors_ask_for_are_those_that_the_run_found_useful(make_machine: MachineMaker) -> None:
    machine = make_machine("h100-sxm", {"cores.count": 4})
    problem = attention.Problem(8, 2, 64, "bf16", (300, 45, 700))
    result = simulate(attention.compile(problem, attention.Knobs(split_tokens=128), machine, 0), machine)
    done = result.actions.instructions
    assert done.loaded_bytes == sum(t.load_useful_bytes for t in result.traffic)
    assert done.stored_bytes == sum(t.store_useful_bytes for t in result.traffic)


@settings(max_examples=8, deadline=None, suppress_health_check=suppress)
@given(context=st.integers(1, 200), more=st.integers(1, 100))
def test_a_longer_context_never_takes_less_energy(context: int, more: int, make_machine: MachineMaker) -> None:
    machine = make_machine("npu-hbm3", {"cores.count": 2, "hbm.controller.refresh": "none"})
    energies = []
    for length in (context, context + more):
        program = attention.compile(attention.Problem(4, 2, 16, "bf16", (length,)), attention.Knobs(), machine, 0)
        energy = simulate(program, machine).energy
        assert energy is not None
        energies.append(energy.by_component_fj)
    assert all(energies[0][part] <= fj for part, fj in energies[1].items() if part != "hbm activate")
    assert sum(energies[0].values()) < sum(energies[1].values())


def test_a_machine_without_energies_counts_its_actions_and_gives_none(make_program: Any, placed: Any) -> None:
    def write(p: PhaseAssembler) -> None:
        (buffer,) = p.add_buffers(placed(("b", 64, 64, "bf16", 1)))
        slot = Slot(buffer, p.begun)
        p.matmul(slot, slot, slot, (64, 64, 64))

    machine = without_energy("npu-hbm3")
    program = make_program(write)
    result = simulate(program, machine)
    assert result.energy is result.energy_bound is least(program, machine, result.bound) is None
    metrics = result.metrics()
    assert metrics["energy_pj"] is metrics["energy_bound_pj"] is metrics["energy_by_component_pj"] is None
    assert result.actions.instructions.macs == {"bf16": 64**3}


def test_a_destination_is_read_where_it_is_added_to(make_program: Any, placed: Any) -> None:
    """Where only an executor knows, as with a running index, it is taken to be."""

    def reads(accumulate: Callable[[PhaseAssembler], Any]) -> int:
        def write(p: PhaseAssembler) -> None:
            a, c = p.add_buffers(placed(("a", 16, 16, "bf16", 1), ("c", 16, 16, "fp32", 1)))
            p.matmul(Slot(c, p.begun), Slot(a, p.begun), Slot(a, p.begun), (16, 16, 16), accumulate=accumulate(p))

        return instructions(make_program(write, tasks=[[0], [1]])).sram_read_bytes

    operands, result = 2 * 2 * 2 * 16 * 16, 4 * 16 * 16
    assert reads(lambda p: 0) == operands
    assert reads(lambda p: 1) == operands + 2 * result
    assert reads(lambda p: p.column("c0")) == operands + result
    assert reads(lambda p: p.begun) == operands + 2 * result


@pytest.mark.parametrize(("dtype", "row_bytes"), [("bf16", 66), ("fp8_scaled", 33), ("fp4_scaled", 17)])
def test_operands_are_read_as_hardware_keeps_them(
    dtype: str, row_bytes: int, make_program: Any, placed: Any, make_machine: MachineMaker
) -> None:
    """Of those that the matrix unit scales itself 8 or 4 bits an element, in whole bytes of a row."""

    def write(p: PhaseAssembler) -> None:
        a, b, c = p.add_buffers(placed(("a", 16, 33, dtype, 1), ("b", 8, 33, dtype, 1), ("c", 16, 8, "fp32", 1)))
        p.matmul(Slot(c, p.begun), Slot(a, p.begun), Slot(b, p.begun), (16, 8, 33), transpose_b=True)

    machine = make_machine("b200-sxm")
    result = simulate(make_program(write, cores=machine.spec.cores.count), machine)
    assert result.sram["matrix"].read_bytes == 24 * row_bytes
    assert result.actions.instructions.sram_read_bytes == 24 * row_bytes


@pytest.mark.parametrize(
    ("kernel", "name"),
    [(kernel, "b200-sxm") for kernel in KERNELS if "gemm" in kernel]
    + [
        ("moe", "mi355x"),
        ("mla-decode", "npu-hbm3"),
        ("prefill-attention", "h100-sxm"),
        ("linear-prefill", "npu-sram"),
    ],
)
def test_with_all_sums_in_the_scratchpad_the_energy_counts_the_bytes_that_the_run_found_read_and_written(
    kernel: str, name: str, make_machine: MachineMaker
) -> None:
    machine = make_machine(name, {"cores.matrix.accumulators": "scratchpad", "cores.matrix.accumulator_capacity": None})
    result = engine.simulate(small_program(kernel, machine), machine)
    done, used = result.actions.instructions, result.sram.values()
    assert done.sram_read_bytes == sum(unit.read_bytes for unit in used)
    assert done.sram_write_bytes == sum(unit.written_bytes for unit in used)


def test_every_8_bit_float_is_fp8_and_a_type_without_a_number_is_refused() -> None:
    energy = load_machine("h100-sxm").energy
    assert energy is not None
    assert mac_fj(energy.chip.mac, "fp8_e4m3") == mac_fj(energy.chip.mac, "fp8_e5m2") == energy.chip.mac.fp8
    with pytest.raises(ValueError, match=r"energy\.chip\.mac: no number for int4; known: bf16, fp16, fp32, fp8, int8"):
        mac_fj(energy.chip.mac, "int4")
