from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from explorer import programs
from hwmodel import energy_sets
from hwmodel.description import EnergySpec, MachineSpec
from hwmodel.energy_sets import PARTS, SETS, set_names
from hwmodel.spec import MACHINES, load_machine


def npu() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((MACHINES / "npu-hbm3.yaml").read_text(encoding="utf-8"))
    return tree


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Return a function that loads the npu with another `energy`, and with sources added."""

    def load_energy(energy: object, **sources: str) -> MachineSpec:
        tree = npu()
        path = tmp_path / "machine.yaml"
        added = {name.replace("__", "."): text for name, text in sources.items()}
        path.write_text(yaml.safe_dump(tree | {"energy": energy, "sources": tree["sources"] | added}))
        load_machine.cache_clear()
        return load_machine(str(path))

    return load_energy


def energy_like(load: Any, **names: str) -> EnergySpec:
    parts = {"hbm": "hbm3", "chip": "5nm"} | names
    found = load({part: {"like": name} for part, name in parts.items()} | {"static": "0 W"}).energy
    assert isinstance(found, EnergySpec)
    return found


def test_there_are_sets_for_every_part() -> None:
    assert {part: set_names(part) for part in PARTS} == {
        "hbm": ("gddr6", "gddr7", "hbm2", "hbm3"),
        "chip": ("5nm", "7nm"),
    }


@pytest.mark.parametrize(("part", "name"), [(part, name) for part in PARTS for name in set_names(part)])
def test_every_number_of_a_set_has_a_source_and_every_source_a_number(part: str, name: str, load: Any) -> None:
    energy_like(load, **{part: name})  # a number without a source is refused
    content = yaml.safe_load((SETS / part / f"{name}.yaml").read_text(encoding="utf-8"))
    for source in content["sources"]:
        node = content["numbers"]
        for key in source.split("."):
            node = node[key]


def test_a_set_that_changes_is_read_again_once_forgotten(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy_sets, "SETS", shutil.copytree(SETS, tmp_path / "energy"))
    before = energy_like(load).chip.noc
    path = tmp_path / "energy" / "chip" / "5nm.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["numbers"]["noc"] = "99 pJ/B"
    path.write_text(yaml.safe_dump(content))
    assert energy_like(load).chip.noc == before
    programs.forget()
    assert energy_like(load).chip.noc == 99_000


def test_logic_of_5_nm_takes_seven_tenths_of_that_of_7_nm_and_wires_and_sram_the_same(load: Any) -> None:
    new, old = (energy_like(load, chip=name).chip.model_dump() for name in ("5nm", "7nm"))
    for unit in ("mac", "vector"):
        assert new.pop(unit) == pytest.approx({k: 0.7 * fj for k, fj in old.pop(unit).items()}, abs=1)
    assert new == old


def test_hbm3_takes_what_hbm2_does_by_the_square_of_the_supplies_and_refreshes_two_rows(load: Any) -> None:
    new, old = (energy_like(load, hbm=name).hbm for name in ("hbm3", "hbm2"))
    ratio = (1.1 / 1.2) ** 2
    assert new.activate == pytest.approx(ratio * old.activate, rel=1e-3)
    assert new.read == new.write == pytest.approx(ratio * old.read, rel=1e-3)
    assert old.read == old.write == 8 * (1510 + 1170)
    assert new.io == old.io == 8 * 800
    assert [part.refresh for part in (new, old)] == [2 * part.activate for part in (new, old)]


def test_the_energy_of_hbm2_per_bit_is_the_published_one_where_a_row_gives_a_quarter_of_its_bytes(load: Any) -> None:
    """3.92 to 3.97 pJ/bit on average over applications (O'Connor et al., MICRO 2017, sections 1 and 2)."""
    hbm = energy_like(load, hbm="hbm2").hbm
    per_bit = (hbm.activate / 256 + hbm.read + hbm.io) / 8
    assert 3900 < per_bit < 4000


@pytest.mark.parametrize(("name", "published"), [("l40", 7500), ("rtx-4090", 7250), ("rtx-pro-6000-server", 4500)])
def test_reads_of_gddr_take_the_published_energy_per_bit(name: str, published: int) -> None:
    """Micron's product briefs of GDDR6X (7.25 pJ/bit, 7.5 of GDDR6) and GDDR7 (4.5), activates not counted."""
    energy = load_machine(name).energy
    assert energy is not None
    assert energy.hbm is not None
    assert energy.hbm.read + energy.hbm.io == pytest.approx(8 * published, rel=1e-3)


def test_a_description_changes_numbers_of_a_set_with_sources_of_its_own(load: Any) -> None:
    energy = {"hbm": {"like": "hbm3"}, "chip": {"like": "5nm", "mac": {"fp8": "0.2 pJ"}}, "static": "5 W"}
    spec = load(energy, energy__chip__mac__fp8="measured")
    assert spec.energy.chip.mac.fp8 == 200
    assert spec.energy.chip.mac.bf16 == 413
    assert spec.sources["energy.chip.mac.fp8"] == "measured"
    assert "Jouppi" in spec.sources["energy.chip.mac"]
    assert spec.with_overrides({"energy.chip.mac.fp8": "0.25 pJ"}).energy.chip.mac.fp8 == 250
    assert spec.with_overrides({"energy.static": "1 kW"}).energy.static == 10**9


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("chip", {"like": "5nm", "noc": "9 pJ/B"}, "sources: energy.chip.noc has no source; name one"),
        ("chip", {"like": "5nm", "mac": {"fp8": "9 pJ"}}, "sources: energy.chip.mac.fp8 has no source"),
        ("hbm", {"like": "hbm33"}, "energy.hbm.like: unknown set 'hbm33'; known: hbm3, hbm2"),
        ("chip", {"like": "hbm3"}, "energy.chip.like: unknown set 'hbm3'; known: "),
        ("hbm", {"like": "../chip/5nm"}, "energy.hbm.like: unknown set '../chip/5nm'"),
        ("hbm", {"like": 3}, "energy.hbm.like: unknown set 3"),
        ("hbm", {"like": ["hbm3"]}, "energy.hbm.like: unknown set ['hbm3']"),
        ("hbm", {"activate": "1 pJ"}, "energy.hbm.read: missing"),
        ("hbm", 5, "energy.hbm: 5; allowed: a mapping with the keys activate, "),
        ("static", "5 pJ", "energy.static: '5 pJ' is no power"),
        ("static", "5 MW", "energy.static: '5 MW'"),
        ("statik", "5 W", "unknown key 'energy.statik'; known: energy.static"),
    ],
)
def test_a_wrong_set_number_or_source_is_refused_in_one_line(part: str, value: object, message: str, load: Any) -> None:
    energy = npu()["energy"] | {part: value}
    with pytest.raises(ValueError, match=r"machine\.yaml: ") as error:
        load(energy)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("energy", [5, "hbm3", [], {}, {"hbm": {"like": "hbm3"}}])
def test_an_energy_that_is_not_all_there_is_refused(energy: object, load: Any) -> None:
    with pytest.raises(ValueError, match=r"machine\.yaml: energy"):
        load(energy)


def test_an_energy_of_a_main_memory_that_the_machine_has_not_is_refused(load: Any) -> None:
    chip = {"chip": {"like": "5nm"}, "static": "0 W"}
    with pytest.raises(ValueError, match=r"machine\.yaml: energy\.hbm: missing"):
        load(chip | {"distributed_sram": "1 pJ/B"}, energy__distributed_sram="assumed")
    both = chip | {"hbm": {"like": "hbm3"}, "distributed_sram": "1 pJ/B"}
    with pytest.raises(ValueError, match=r"energy\.distributed_sram: this machine has no distributed_sram"):
        load(both, energy__distributed_sram="assumed")
    sram = load_machine("npu-sram")
    with pytest.raises(ValueError, match=r"^machine npu-sram: energy\.distributed_sram: missing"):
        sram.with_overrides({"energy.distributed_sram": None})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("9 pJ", "'9 pJ' is no energy per byte"),
        ("9 pJ/b", "'9 pJ/b' is no energy per byte"),
        (9, "9 is no energy per byte"),
        ("-1 pJ/B", "it must not be less than zero"),
        ("1 uJ/B", "allowed: 0 J/B to 100 nJ/B"),
    ],
)
def test_a_wrong_unit_or_size_of_an_energy_is_refused(value: object, message: str, load: Any) -> None:
    energy = {"hbm": {"like": "hbm3"}, "chip": {"like": "5nm", "noc": value}, "static": "0 W"}
    with pytest.raises(ValueError, match=r"energy\.chip\.noc: ") as error:
        load(energy, energy__chip__noc="assumed")
    assert message in str(error.value)


def test_a_machine_may_be_without_energy(load: Any) -> None:
    tree = npu()
    assert load(tree["energy"]).hash == load_machine("npu-hbm3").hash
    sources = {name: text for name, text in tree["sources"].items() if not name.startswith("energy")}
    bare = MachineSpec.model_validate(
        {**load_machine("npu-hbm3").model_dump(), "energy": None, "sources": sources}
        | {k: v for k, v in tree.items() if k not in ("energy", "sources")}
    )
    assert bare.energy is None
    assert bare.hash != load_machine("npu-hbm3").hash
