from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import yaml

from hwmodel.energy_sets import set_names
from hwmodel.machine import Machine
from hwmodel.spec import MACHINES, load_machine, machine_names


@cache
def _read(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.load((MACHINES / f"{name}.yaml").read_bytes(), Loader=yaml.CSafeLoader)
    return tree


def tree_of(name: str) -> dict[str, Any]:
    """Return a shipped description, to be changed."""
    return copy.deepcopy(_read(name))


def changed(name: str, path: str, value: object) -> dict[str, Any]:
    """Return a shipped description with the value at a dotted path replaced, or removed where it is None."""
    tree = tree_of(name)
    *parents, last = path.split(".")
    node = tree
    for key in parents:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return tree


def numbers(tree: Any, prefix: str = "") -> list[str]:
    """Return the dotted paths of everything that describes the hardware."""
    paths = []
    for key, value in tree.items():
        if prefix or key not in ("like", "name", "description", "sources", "ranges"):
            paths += numbers(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return paths


def covering() -> set[str]:
    """Return a few machines that between them give every number that any gives."""
    given = {name: set(numbers(tree_of(name))) for name in machine_names()}
    left, chosen = set().union(*given.values()), set()
    while left:
        name = max(given, key=lambda name: len(given[name] & left))
        chosen.add(name)
        left -= given[name]
    return chosen


FEW = covering()
each_machine = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FEW)) for name in machine_names()]
)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sources", [], "sources: []; allowed: a mapping of keys to values"),
        ("sources.noc", "", "sources.noc: ''; allowed: a text that is not empty"),
        ("sources.noc", " ", "sources.noc: ' '; allowed: a text that is not empty"),
    ],
)
def test_sources_that_say_nothing_are_refused(refusal: Any, path: str, value: object, message: str) -> None:
    assert f": {message}" in refusal(changed("npu-hbm3", path, value))


@pytest.mark.parametrize(
    ("path", "known"),
    [("noc.latncy", "noc.latency"), ("name", "")],
)
def test_the_source_of_nothing_is_refused(refusal: Any, path: str, known: str) -> None:
    tree = tree_of("npu-hbm3")
    tree["sources"][path] = "a misspelt path"
    assert f": sources: unknown path '{path}'; known: {known}" in refusal(tree)


@pytest.mark.parametrize(
    ("path", "part"), [("tlb.entries", "tlb"), ("cores.l1", "cores.l1"), ("cores.l1.line", "cores.l1")]
)
def test_the_source_of_a_part_that_is_missing_is_refused_by_the_part(refusal: Any, path: str, part: str) -> None:
    tree = tree_of("npu-hbm3")
    tree["sources"][path] = "a part that the machine has not"
    assert f": {part}: missing, but sources name {path}; allowed: both, or neither" in refusal(tree)


def test_a_machine_without_its_energies_is_told_of_them_where_their_sources_stay(refusal: Any) -> None:
    message = refusal(changed("npu-hbm3", "energy", None))
    assert ": energy: missing, but sources name energy." in message


def test_main_memory_is_hbm_or_sram_and_not_both_or_neither(load: Any, refusal: Any) -> None:
    npu, sram = tree_of("npu-hbm3"), tree_of("npu-sram")
    assert "hbm: missing; a machine has hbm or distributed_sram" in refusal(changed("npu-hbm3", "hbm", None))
    both = npu | {"distributed_sram": sram["distributed_sram"], "sources": npu["sources"] | sram["sources"]}
    assert "distributed_sram: beside hbm" in refusal(both)
    machine = Machine(load(sram))
    assert (machine.memory, machine.burst_bytes, machine.memory_capacity_bytes) == ("sram", 32, 512 * 2**20)
    with pytest.raises(ValueError, match=r"hbm: this machine has none; its main memory is distributed_sram"):
        _ = machine.hbm
    with pytest.raises(ValueError, match=r"distributed_sram: its slices are hashed, so that no layout keeps"):
        _ = machine.address_map
    with pytest.raises(ValueError, match=r"unknown machine path 'hbm\.stacks'"):
        machine.spec.with_overrides({"hbm.stacks": 2})


@pytest.mark.parametrize(
    ("name", "path", "value", "expected"),
    [
        ("h100-sxm", "shared_cache.capacity", "50 MB", "shared_cache.capacity: 50000000 B is no multiple of 327680 B"),
        ("h100-sxm", "shared_cache.sector", "48 B", "shared_cache.sector: 48 B is no multiple of a burst of 32 B"),
        ("npu-sram", "distributed_sram.interleave", "48 B", "distributed_sram.interleave: 48 B is no multiple"),
        (
            "h100-sxm",
            "shared_cache.capacity",
            "1 TiB",
            "shared_cache.capacity: 1099511627776 B; allowed: up to ",
        ),
        (
            "npu-sram",
            "distributed_sram.access",
            "1 TiB",
            "distributed_sram.access: 1099511627776 B; allowed: up to ",
        ),
        ("npu-sram", "distributed_sram.slices", 60, "distributed_sram.capacity: 536870912 B is no multiple of 60"),
        (
            "npu-sram-local",
            "cores.count",
            32,
            "distributed_sram.slices: 64; allowed where they are local: one per core",
        ),
        ("npu-sram-local", "distributed_sram.access", "96 B", "distributed_sram.interleave: 1024 B is no multiple of"),
    ],
)
def test_memories_whose_numbers_do_not_fit_each_other_are_refused(
    name: str, path: str, value: object, expected: str
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - checked below
        Machine(load_machine(name).with_overrides({path: value}))
    assert str(error.value).startswith(f"machine {name}: {expected}")
    assert "\n" not in str(error.value)


def test_a_number_that_a_machine_leaves_out_can_be_set_and_a_part_that_it_has_not_cannot() -> None:
    spec = load_machine("npu-hbm3").with_overrides({"noc.bisection": "2 TB/s", "noc.multicast_window": "20 ns"})
    assert (spec.noc.bisection, spec.noc.multicast_window) == (2 * 10**12, 20 * 10**6)
    assert spec.sources["noc.bisection"] == "what-if"
    with pytest.raises(ValueError, match=r"unknown machine path 'tlb\.entries'"):
        load_machine("npu-hbm3").with_overrides({"tlb.entries": 4})


@each_machine
def test_every_number_has_a_source_and_loses_the_description_without_it(name: str, load: Any, refusal: Any) -> None:
    tree = tree_of(name)
    for source in tree["sources"]:
        covered = [path for path in numbers(tree) if path == source or path.startswith(source + ".")]
        without = copy.deepcopy(tree)
        del without["sources"][source]
        if "like" in tree and not covered:  # its own words about a number that it inherits
            base = load_machine(tree["like"])
            assert load(without).sources.get(source) == base.sources.get(source) != tree["sources"][source]
            continue
        assert covered, f"{source} is the source of nothing"
        message = refusal(without)
        assert any(f"sources: {path} has no source" in message for path in covered)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("cores.cuont", 4, ("unknown key 'cores.cuont'", "known: cores.count")),
        ("cores.dma.requestbytes", 4, ("'cores.dma.requestbytes'", "known: cores.dma.request_bytes")),
        ("shared_cache", 5, ("shared_cache: 5; allowed: a mapping with the keys capacity, partitions, line, ",)),
        ("shared_cash", {}, ("'shared_cash'", "known: shared_cache")),
        ("shared_cache.size", "1 MB", ("'shared_cache.size'", "shared_cache.capacity")),
        ("cores.clock", "1.83 GB", ("cores.clock: '1.83 GB'", "'1.83 GB' is no frequency", "GHz")),
        ("cores.clock", 1_830_000_000, ("cores.clock: 1830000000", "give a number and a unit")),
        ("cores.clock", "-1 GHz", ("cores.clock: '-1 GHz'", "greater than zero")),
        ("cores.sram.capacity", "0 B", ("cores.sram.capacity: '0 B'", "greater than zero")),
        ("cores.count", 0, ("cores.count: 0; allowed: at least 1",)),
        ("cores.count", -4, ("cores.count: -4; allowed: at least 1",)),
        ("cores.count", "four", ("cores.count: 'four'", "integer")),
        ("cores.count", True, ("cores.count: True", "integer")),
        ("cores.count", 1.5, ("cores.count: 1.5", "integer")),
        ("cores.count", 10**9, ("cores.count: 1000000000; allowed: at most 4096",)),
        (
            "hbm.controller.refresh",
            "sometimes",
            ("hbm.controller.refresh: 'sometimes'", "known: none, per-bank, all-bank"),
        ),
        ("hbm.pin_rate", None, ("hbm.pin_rate: missing",)),
        ("hbm", [1], ("hbm: [1]",)),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_what_is_allowed(
    path: str, value: object, expected: tuple[str, ...], refusal: Any
) -> None:
    message = refusal(changed("h100-sxm", path, value))
    assert "machine.yaml: " in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("hbm.stacks", "4", "hbm.stacks: '4'; allowed: an integer"),
        ("hbm.stacks", [4], "hbm.stacks: [4]; allowed: an integer"),
        ("hbm.stacks", 2.5, "hbm.stacks: 2.5; allowed: an integer"),
        ("hbm.stacks", 65, "hbm.stacks: 65; allowed: at most 64"),
        ("cores.sram.ports", 9, "cores.sram.ports: 9; allowed: at most 8"),
        ("cores.dma.dimensions", 0, "cores.dma.dimensions: 0; allowed: at least 1"),
        ("cores.dma.gather", "maybe", "cores.dma.gather: 'maybe'; allowed: true or false"),
        ("cores.dma.gather", 1, "cores.dma.gather: 1; allowed: true or false"),
        ("cores.matrix.sustained_percent", 120, "cores.matrix.sustained_percent: 120; allowed: at most 100"),
        ("cores.matrix.accumulators", "owned", "cores.matrix.accumulators: 'owned'; allowed: own or scratchpad"),
        ("cores.clock", "900 GHz", "cores.clock: '900 GHz'; allowed: 1 MHz to 100 GHz"),
        ("cores.clock", "fast", "cores.clock: 'fast' is no frequency: give a number and a unit, one of Hz, kHz, KHz, "),
        ("energy.static", "70", "energy.static: '70' is no power: give a number and a unit, one of W, mW, "),
        (
            "cores.matrix.bf16",
            512,
            "cores.matrix.bf16: 512; allowed: a mapping with the keys macs_per_cycle, sustained",
        ),
        ("noc", [1], "noc: [1]; allowed: a mapping with the keys port_bytes_per_cycle, latency, bisection, multicast"),
        ("launch", "3 us", "launch: '3 us'; allowed: a mapping with the keys latency, graph"),
        ("hbm.controller", "fcfs", "hbm.controller: 'fcfs'; allowed: a mapping with the keys scheduler, row_policy, "),
        ("hbm.controller.scheduler", "FIFO", "hbm.controller.scheduler: 'FIFO'; known: fcfs, fr-fcfs, "),
        ("hbm.controller.read_queue", -1, "hbm.controller.read_queue: -1; allowed: at least 1"),
        ("hbm.address_map.fields", "a b c", "hbm.address_map.fields: 'a b c'; allowed: a list"),
        ("hbm.address_map.fields", [1], "hbm.address_map.fields.0: 1; allowed: a text"),
        ("name", 7, "name: 7; allowed: a text"),
        ("sources.noc", 3, "sources.noc: 3; allowed: a text"),
        ("tlb", {"entries": 4}, "tlb.page: missing"),
    ],
)
def test_a_wrong_machine_is_one_line_of_where_and_what_and_what_is_allowed(
    refusal: Any, path: str, value: object, line: str
) -> None:
    message = refusal(changed("npu-hbm3", path, value))
    assert message.partition(": ")[2].startswith(line)
    for word in ("Input", "valid", "instance", "Value error"):
        assert word not in message


def test_overrides_take_numbers_and_texts() -> None:
    spec = load_machine("npu-hbm3").with_overrides(
        {"hbm.stacks": 2, "cores.count": "8", "cores.clock": "2 GHz", "hbm.controller.refresh": "none"}
    )
    assert (spec.hbm.stacks, spec.cores.count, spec.cores.clock) == (2, 8, 2 * 10**9)
    assert Machine(spec).hbm.policy.refresh == "none"
    assert spec.sources["hbm.stacks"] == "what-if"
    assert load_machine("npu-hbm3").hbm.stacks == 4
    assert Machine(spec).hbm_peak_bytes_per_second == 2 * 819_200_000_000


def test_no_override_gives_the_same_machine_and_one_that_changes_nothing_the_same_hash() -> None:
    spec = load_machine("h100-sxm")
    assert spec.with_overrides({}) is spec
    assert spec.with_overrides({"hbm.stacks": 5, "noc.latency": "70.8 ns"}).hash == spec.hash


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("hbm.stack", 2, "unknown machine path 'hbm.stack'; did you mean hbm.stacks? known: hbm.stacks"),
        ("sources.hbm.stacks", "me", "unknown machine path 'sources.hbm.stacks'"),
        ("shared_cache.capacity", "1 MB", "unknown machine path 'shared_cache.capacity'"),
        ("hbm", 2, "unknown machine path 'hbm'"),
        ("hbm.address_map.field", "x", "'hbm.address_map.field'; known: hbm.standard, "),
        ("hbm.address_map.hashes", "[]", "machine path 'hbm.address_map.hashes' is a list, and lists cannot be set"),
        ("hbm.stacks", "two", "hbm.stacks: 'two'; allowed: an integer"),
        ("hbm.stacks", 0, "hbm.stacks: 0; allowed: at least 1"),
        ("hbm.pin_rate", "6.4 GB/s", "hbm.pin_rate: '6.4 GB/s' is no bit rate: "),
        ("cores.clock", 2_000_000_000, "cores.clock: 2000000000 is no frequency: "),
        ("hbm.stacks", "2020-99-99", "hbm.stacks: "),
        ("hbm.stacks", "9" * 5000, "hbm.stacks: "),
        ("hbm.stacks", "[" * 10_000, "hbm.stacks: "),
        (
            "hbm.stacks",
            "[&a [x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b], [*c,*c,*c,*c,*c,*c]]",
            "hbm.stacks: ",
        ),
    ],
)
def test_a_wrong_override_is_refused_in_one_short_line(path: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - checked below
        load_machine("npu-hbm3").with_overrides({path: value})
    message = str(error.value)
    assert expected in message
    assert "\n" not in message
    assert len(message) < 1000


def test_an_address_map_that_reaches_two_banks_at_one_address_is_refused_in_one_line() -> None:
    spec = load_machine("npu-hbm3").with_overrides(
        {"hbm.address_map.hashes": ["channel[0] ^= channel[1]", "channel[1] ^= channel[0]"]}
    )
    with pytest.raises(ValueError, match=r"^machine npu-hbm3: hbm\.address_map: ") as error:
        Machine(spec)
    assert "\n" not in str(error.value)


def test_a_part_that_does_not_fit_is_named_by_the_file_it_stands_in(load: Any) -> None:
    spec = load(changed("npu-hbm3", "hbm.pin_rate", "60 Gb/s") | {"ranges": {}})
    with pytest.raises(ValueError, match=r"machine\.yaml: hbm\.pin_rate: HBM3: pin rate") as error:
        Machine(spec)
    assert "npu-hbm3" not in str(error.value)
    with pytest.raises(ValueError, match=r"machine\.yaml: hbm\.stacks: 0; allowed: at least 1"):
        spec.with_overrides({"hbm.stacks": 0})
    with pytest.raises(ValueError, match=r"machine\.yaml: hbm\.pin_rate: "):
        Machine(spec.with_overrides({"hbm.stacks": 2}))


def test_an_address_map_that_leaves_out_a_field_is_refused_in_one_line() -> None:
    fields = ["offset:5", "column:5", "pseudo_channel:1", "channel:4", "stack", "bank", "row"]
    spec = load_machine("npu-hbm3").with_overrides({"hbm.address_map.fields": fields})
    with pytest.raises(ValueError, match=r"hbm\.address_map: .*bank_group"):
        Machine(spec)


def test_an_unknown_standard_and_a_request_below_a_burst_are_refused() -> None:
    spec = load_machine("npu-hbm3")
    with pytest.raises(ValueError, match=r"hbm\.standard: unknown DRAM standard 'HBM9'; known: HBM2, HBM3, HBM4"):
        Machine(spec.with_overrides({"hbm.standard": "HBM9"}))
    with pytest.raises(ValueError, match=r"cores\.dma\.request_bytes: 16 B is less than one burst of 32 B"):
        Machine(spec.with_overrides({"cores.dma.request_bytes": "16 B"}))
    with pytest.raises(ValueError, match="pin rate 7000000000 b/s is outside"):
        Machine(spec.with_overrides({"hbm.pin_rate": "7 Gb/s"}))


@each_machine
def test_the_hash_changes_with_every_number_and_with_no_word(name: str, load: Any) -> None:
    tree = tree_of(name)
    original = load(tree)
    assert original.hash == load_machine(name).hash
    words = tree | {"name": "other", "description": "other", "sources": dict.fromkeys(tree["sources"], "other")}
    assert load(words).hash == original.hash
    other = {"hbm.standard": "HBM4", "hbm.controller.refresh": "none", "hbm.address_map.hashes": [], "hbm.stacks": 3}
    other |= {"hbm.controller.scheduler": "fcfs", "hbm.controller.row_policy": "closed"}
    other |= {"hbm.controller.write_high": 0.9, "hbm.controller.write_low": 0.1}
    other |= {"cores.matrix.accumulators": "scratchpad"}
    hashes = {original.hash}
    paths = numbers(tree)
    for path in paths:
        value = original
        for key in path.split("."):
            value = getattr(value, key, None)
        if tree_value(tree, path) is None:  # a part that its base has and it has not
            new: Any = None
        elif path in other:
            new = other[path]
        elif path.endswith(".like"):
            new = min(set(set_names(path.split(".")[1])) - {tree_value(tree, path)})
        elif path == "hbm.address_map.fields":
            new = list(reversed(original.hbm.address_map.fields))
        elif isinstance(value, bool):
            new = not value
        elif isinstance(value, int) and isinstance(tree_value(tree, path), str):
            unit = tree_value(tree, path).split()[1]
            new = f"{float(tree_value(tree, path).split()[0]) + 1} {unit}"
        else:
            new = int(str(value)) + (-1 if path.endswith("percent") else 1)
        hashes.add(load(changed(name, path, new) | {"ranges": {}}).hash)  # in which the number would not lie
    assert len(hashes) == len(paths) + 1


def test_the_hash_is_the_same_in_every_process() -> None:
    code = "from hwmodel.spec import load_machine; print(load_machine('npu-hbm3').hash)"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == load_machine("npu-hbm3").hash, done.stderr


def tree_value(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def test_the_summary_holds_every_number_and_its_hash() -> None:
    spec = load_machine("h100-sxm")
    summary = spec.summary()
    assert summary["hash"] == spec.hash
    assert summary["cores"]["clock"] == 1_830_000_000
    written = {path for path in numbers(tree_of("h100-sxm")) if not path.endswith(".like")}
    assert written <= set(numbers(summary))
    assert summary["energy"]["chip"]["mac"]["bf16"] == 413


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("launch.latency", "4000 s", "0 s to 1 ms"),
        ("cores.clock", "1 Hz", "1 MHz to 100 GHz"),
        ("cores.dma.issue_cycles", "1099511627776", "1048576"),
        ("hbm.pin_rate", "10 kb/s", "1 Mb/s to 1 Tb/s"),
    ],
)
def test_a_slip_of_a_prefix_is_refused_with_the_range(path: str, value: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{path}.*{allowed}"):
        load_machine("npu-hbm3").with_overrides({path: value})


def test_a_rate_at_which_refreshes_leave_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hbm\.pin_rate: HBM3: pin rate 10000000 b/s is outside 1000000000"):
        Machine(load_machine("npu-hbm3").with_overrides({"hbm.pin_rate": "10 Mb/s"}))


def test_slices_that_are_the_cores_own_have_an_address_map_and_no_shared_cache_before_them(load: Any) -> None:
    machine = Machine(load_machine("npu-sram-local"))
    assert machine.address_map.sizes[0] == machine.spec.cores.count == 64
    where = machine.address_map.decode([0, 1023, 1024, 64 * 1024, 512 * 2**20 - 1])
    assert where.stack.tolist() == [0, 0, 1, 0, 63]
    tree, h100 = tree_of("npu-sram-local"), tree_of("h100-sxm")
    tree["shared_cache"] = h100["shared_cache"]
    tree["sources"] |= {path: text for path, text in h100["sources"].items() if path.startswith("shared_cache")}
    tree["energy"] = None
    with pytest.raises(ValueError, match=r"distributed_sram\.local: beside a shared cache, which all requests pass"):
        Machine(load(tree))


def test_all_keys_that_a_machine_lacks_are_named_at_once_with_their_kinds(refusal: Any) -> None:
    message = refusal({"name": "mine", "description": "from nothing", "sources": {}, "cores": {"sram": {"banks": 32}}})
    start = ": cores.count: missing (integer); so are cores.clock (frequency), cores.matrix.macs_per_cycle (integer), "
    assert start in message
    assert re.search(r", and \d\d more$", message)
    tree = changed("npu-hbm3", "launch", {})
    tree["noc"].pop("latency")
    assert refusal(tree).endswith(": noc.latency: missing (time); so is launch.latency (time)")


def test_all_numbers_without_a_source_are_named_at_once(refusal: Any) -> None:
    tree = changed("npu-hbm3", "sources", {"noc": "a test"})
    assert ": sources: cores.count has no source, nor have cores.clock, cores.matrix.macs_per_cycle, " in refusal(tree)
    assert re.search(r", and \d+ more; name one, or write `assumed` and why$", refusal(tree))
