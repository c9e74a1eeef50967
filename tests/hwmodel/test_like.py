"""Descriptions that are like another one: what is inherited, what is replaced, and what has to have a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hwmodel import spec
from hwmodel.description import MachineSpec
from hwmodel.like import groups, leaves, merged, with_base
from hwmodel.machine import Machine
from hwmodel.spec import MACHINES, load_machine, machine_names
from hwmodel.yaml_file import read_yaml


def written(name: str) -> dict[str, Any]:
    tree = read_yaml(MACHINES / f"{name}.yaml")
    assert isinstance(tree, dict)
    return tree


def shipped(name: object) -> dict[str, Any]:
    return written(str(name))


ALIKE = [name for name in machine_names() if "like" in written(name)]
OWN = {"name": "mine", "description": "one more"}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Return a function that loads a description like a shipped machine: load("h100-sxm", {changes}, {sources})."""

    def load_like(name: object, changes: dict[str, Any], sources: object = None) -> MachineSpec:
        path = tmp_path / "mine.yaml"
        words = OWN | ({"sources": sources} if sources is not None else {})
        path.write_text(yaml.safe_dump({"like": name} | words | changes))
        load_machine.cache_clear()
        return load_machine(str(path))

    return load_like


def refusal(load: Any, name: object, changes: dict[str, Any], sources: object = None) -> str:
    with pytest.raises(ValueError, match=r"mine\.yaml: ") as error:
        load(name, changes, sources)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message.partition("mine.yaml: ")[2]


@pytest.mark.parametrize("name", machine_names())
def test_a_file_that_changes_nothing_is_the_same_machine_by_another_name(name: str, load: Any) -> None:
    base, mine = load_machine(name), load(name, {})
    assert mine.hash == base.hash
    assert mine.sources == base.sources
    assert (mine.name, mine.description) == ("mine", "one more")


def test_a_number_that_is_repeated_keeps_its_source(load: Any) -> None:
    found, base = load("npu-hbm3", {"hbm": {"stacks": 4}}), load_machine("npu-hbm3")
    assert found.hbm == base.hbm
    assert found.sources == base.sources


def test_what_is_given_replaces_and_all_else_is_inherited(load: Any) -> None:
    changes = {"hbm": {"stacks": 6}, "noc": {"bisection": "3 TB/s"}, "tlb": None, "cores": {"matrix": {"fp8": None}}}
    base, mine = load_machine("h100-sxm"), load("h100-sxm", changes, {"hbm.stacks": "sheet", "noc.bisection": "guess"})
    old, new = (dict(leaves(spec.model_dump())) for spec in (base, mine))
    differ = {path for path in old | new if old.get(path) != new.get(path)}
    gone = {path for path in old if path.startswith(("tlb.", "cores.matrix.fp8."))}
    numbers = {path for path in differ if path.split(".")[0] not in ("name", "description", "sources")}
    assert numbers == {"hbm.stacks", "noc.bisection"} | gone
    assert (mine.tlb, mine.cores.matrix.fp8, mine.hbm.stacks) == (None, None, 6)
    assert mine.sources["hbm.stacks"] == "sheet"
    assert Machine(mine).memory_capacity_bytes == 96 * 2**30
    removed = {path for path in base.sources if path.startswith(("tlb", "cores.matrix.fp8"))}
    assert mine.sources.keys() == (base.sources.keys() - removed) | {"noc.bisection"}


def test_a_list_replaces_a_list(load: Any) -> None:
    hashes = {"hbm": {"address_map": {"hashes": []}}}
    assert load("h100-sxm", hashes, {"hbm.address_map.hashes": "none"}).hbm.address_map.hashes == ()


def test_a_source_of_a_group_is_that_of_the_numbers_that_change_where_the_base_has_smaller_groups(load: Any) -> None:
    changes = {"hbm": {"stacks": 6, "address_map": {"hashes": []}}}
    base, mine = load_machine("npu-hbm3"), load("npu-hbm3", changes, {"hbm": "sheet"})
    assert mine.hbm.address_map.hashes == ()
    for path, _ in leaves(mine.model_dump(include={"hbm"}, exclude_none=True)):
        (source,) = [mine.sources[group] for group in groups(path) if group in mine.sources][-1:]
        (was,) = [base.sources[group] for group in groups(path) if group in base.sources][-1:]
        assert source == ("sheet" if path in ("hbm.stacks", "hbm.address_map.hashes") else was), path


def test_a_set_of_energies_may_be_replaced_with_its_sources(load: Any) -> None:
    mine = load("a100-sxm", {"energy": {"hbm": {"like": "hbm3", "refresh": None}, "chip": {"like": "5nm"}}})
    assert mine.energy.hbm == load_machine("h100-sxm").energy.hbm
    assert mine.sources["energy.hbm.refresh"] == load_machine("h100-sxm").sources["energy.hbm.refresh"]
    assert mine.energy.chip.mac == load_machine("h100-sxm").energy.chip.mac
    assert mine.energy.chip.noc == load_machine("a100-sxm").energy.chip.noc


def test_machines_may_be_alike_in_a_chain(load: Any) -> None:
    assert written("h200-sxm")["like"] == "h100-sxm"
    assert load("h200-sxm", {}).hash == load_machine("h200-sxm").hash != load_machine("h100-sxm").hash


def test_an_h200_is_an_h100_but_for_its_memory_and_its_launch() -> None:
    old, new = (dict(leaves(load_machine(name).model_dump())) for name in ("h100-sxm", "h200-sxm"))
    differ = {path for path, value in new.items() if value != old.get(path) and not path.startswith("sources.")}
    memory = {"hbm.standard", "hbm.stacks", "hbm.pin_rate", "shared_cache.miss_latency", "energy.hbm.refresh"}
    assert differ == memory | {"launch.latency", "name", "description"}


@pytest.mark.parametrize("name", ALIKE)
def test_every_number_that_differs_has_a_source_of_its_own_and_every_other_one_that_of_its_base(name: str) -> None:
    tree, spec, base = written(name), load_machine(name), load_machine(written(name)["like"])
    old, new = (dict(leaves(s.model_dump(exclude={"name", "description", "sources", "ranges"}))) for s in (base, spec))
    for path, value in new.items():
        if value is not None and not path.startswith("energy"):  # whose sets bring sources
            (source,) = [spec.sources[group] for group in groups(path) if group in spec.sources][-1:]
            own = source in tree["sources"].values()
            assert own or (value == old.get(path) and source in base.sources.values()), path


@pytest.mark.parametrize("name", ALIKE)
def test_a_file_gives_no_number_and_no_source_that_it_would_inherit(name: str) -> None:
    base = with_base(written(written(name)["like"]), shipped)
    there = dict(leaves({key: value for key, value in base.items() if key not in ("name", "description", "sources")}))
    given = {key: value for key, value in written(name).items() if key not in ("like", "name", "description")}
    sources = given.pop("sources")
    for path, value in leaves(given):
        assert value is None or value != there.get(path), path
    for path, text in sources.items():
        assert text != base["sources"].get(path) or any(path in groups(changed) for changed, _ in leaves(given)), path


@pytest.mark.parametrize(
    ("changes", "sources", "message"),
    [
        ({"hbm": {"stacks": 6}}, None, "sources: hbm.stacks has no source; name one, or write `assumed` and why"),
        ({"hbm": {"stacks": 6}}, {"hbm.pin_rate": "sheet"}, "sources: hbm.stacks has no source"),
        # the innermost source would be that of the H100's number
        (
            {"cores": {"matrix": {"fp8": {"macs_per_cycle": 9}}}},
            {"hbm": "x"},
            "sources: cores.matrix.fp8.macs_per_cycle",
        ),
        ({"hbm": {"controller": {"read_queue": 9}}}, {"noc": "x"}, "sources: hbm.controller.read_queue has no source"),
        ({"energy": {"hbm": {"read": "1 pJ/B"}}}, {}, "sources: energy.hbm.read has no source"),
        ({"hbm": {"stack": 6}}, {"hbm.stack": "sheet"}, "unknown key 'hbm.stack'; known: hbm.stacks"),
        ({"hbm": 5}, {"hbm": "sheet"}, "hbm: 5; allowed: a mapping with the keys standard, "),
        (
            {"cores": {"clock": {"fast": "1 GHz"}}},
            {"cores.clock": "x"},
            "cores.clock: {'fast': '1 GHz'} is no frequency",
        ),
        (
            {"tlb": None},
            {"tlb.entries": "sheet"},
            "tlb: missing, but sources name tlb.entries; allowed: both, or neither",
        ),
        ({"cores": {"count": None}}, None, "cores.count: missing"),
        ({"cores": {"cuont": 3}}, None, "unknown key 'cores.cuont'; known: cores.count"),  # rather than: has no source
        ({"cores": {"cuont": None}}, None, "unknown key 'cores.cuont'; known: cores.count"),
        ({"distributed_sram": None}, None, "distributed_sram: null removes nothing: h100-sxm has none"),
        ({"distributed_sram": {"access": None}}, None, "distributed_sram.access: null removes nothing"),
        ({}, 5, "sources: 5; allowed: a mapping of keys to values"),
        ({}, [], "sources: []; allowed: a mapping of keys to values"),
        ({}, {"hbm": 5}, "sources.hbm: 5; allowed: a text"),
        ({}, {"hbm.stack": "sheet"}, "sources: unknown path 'hbm.stack'; known: hbm.stacks"),
    ],
)
def test_a_wrong_change_is_refused_in_one_line(
    changes: dict[str, Any], sources: object, message: str, load: Any
) -> None:
    assert refusal(load, "h100-sxm", changes, sources).startswith(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100-smx", "like: unknown machine 'h100-smx'; known: h100-sxm, "),
        ("../machines/h100-sxm", "like: unknown machine '../machines/h100-sxm'"),
        ("mine.yaml", "like: unknown machine 'mine.yaml'"),
        (None, "like: unknown machine 'None'"),
        (3, "like: unknown machine '3'"),
        (["h100-sxm"], "like: unknown machine "),
        ("x" * 100_000, "like: unknown machine 'xxx"),
    ],
)
def test_a_machine_is_like_a_shipped_one_or_refused(name: object, message: str, load: Any) -> None:
    assert refusal(load, name, {}).startswith(message)


@pytest.mark.parametrize("word", ["name", "description"])
def test_name_and_description_are_not_inherited(word: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"like": "h100-sxm"} | {key: text for key, text in OWN.items() if key != word}))
    with pytest.raises(ValueError, match=rf"mine\.yaml: {word}: missing"):
        load_machine(str(path))


def test_machines_that_are_like_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, other in {"a": "b", "b": "c", "c": "a", "self": "self"}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"like": other} | OWN))
    monkeypatch.setattr(spec, "MACHINES", tmp_path)
    load_machine.cache_clear()
    with pytest.raises(ValueError, match=r"^machine a: like: a is like itself: a -> b -> c -> a$"):
        load_machine("a")
    with pytest.raises(ValueError, match=r"^machine self: like: self is like itself: self -> self$"):
        load_machine("self")


TREES = st.recursive(
    st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda part: st.dictionaries(st.sampled_from("abc"), part, min_size=1, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(MAPPINGS, MAPPINGS)
def test_a_merged_tree_has_what_is_given_and_of_the_rest_what_was_there(base: Any, changes: Any) -> None:
    found, old, given = (dict(leaves(tree)) for tree in (merged(base, changes), base, changes))
    assert given.items() <= found.items()
    for path, value in old.items():
        replaced = given.keys() & groups(path) or any(path in groups(other) for other in given)
        assert replaced or found.get(path) == value
    assert found.keys() <= old.keys() | given.keys()
    assert merged(base, {}) == base
    assert merged(merged(base, changes), changes) == merged(base, changes)


@given(MAPPINGS)
def test_none_removes(base: Any) -> None:
    assert merged(base, dict.fromkeys(base)) == {}
    assert merged({"d": base, "e": 1}, {"d": dict.fromkeys(base)}) == {"d": {}, "e": 1}
