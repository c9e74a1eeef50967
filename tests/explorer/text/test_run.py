from __future__ import annotations

from typing import Any

from explorer import evaluate
from explorer.query import Query
from explorer.storage.row import flatten
from explorer.text.run import run_text
from explorer.text.tables import number


def metrics() -> dict[str, Any]:
    """A run of two units for 2 us, with numbers that are easy to add up."""
    return {
        "time_us": 2.0,
        "cycles": 3000,
        "bound_us": 1.5,
        "energy_pj": 2000.0,
        "energy_bound_pj": 1000.0,
        "energy_by_component_pj": {"hbm io": 1500.0, "noc": 500.0, "static": 0.0},
        "hbm_read_bytes": 4096,
        "hbm_useful_bytes": 4096,
        "hbm_write_bytes": 0,
        "hbm_bandwidth_fraction": 0.25,
        "row_hits": 62,
        "row_misses": 2,
        "row_conflicts": 0,
        "activates": 2,
        "refreshes": 0,
        "sram": {
            "load": {"read_bytes": 0, "written_bytes": 4096, "conflict_cycles": 7, "contention_cycles": 0},
            "store": {"read_bytes": 0, "written_bytes": 0, "conflict_cycles": 0, "contention_cycles": 0},
        },
        "dma": {"a": {"descriptors": 3, "indices": 0, "requests": 12345, "overfetch_bytes": 0}},
        "limited_by": "hbm",
        "levels": {"network": {"asked_bytes": 4096, "hit_bytes": 0}, "hbm": {"asked_bytes": 4096, "hit_bytes": 3968}},
        "utilisation": {"load": 0.5, "store": 0.0},
        "stalls": {"load": {"memory": 10**9, "useful": 10**9}, "store": {"launch": 10**9, "no work": 3 * 10**9}},
        "phases": {"multiply": 2.0},
        "program_hash": "0011223344556677",
        "machine_hash": "8899aabbccddeeff",
    }


GOLDEN = """\
time
  time_us        2 us
  bound_us     1.5 us
  limited_by      hbm
  cycles        3,000

energy, pJ
  total    2,000.0
  bound    1,000.0   50.0 %
  hbm io   1,500.0   75.0 %
  noc          500   25.0 %

main memory
  hbm_read_bytes           4,096 B
  hbm_useful_bytes         4,096 B
  hbm_bandwidth_fraction    25.0 %
  row_hits                      62
  row_misses                     2
  activates                      2

scratchpads by unit
         written_bytes   conflict_cycles
  load           4,096                 7

DMA by tensor
      descriptors   requests
  a             3     12,345

levels of memory
            asked_bytes   hit_bytes
  network         4,096           -
  hbm             4,096       3,968

utilisation
  load   50.0 %

stalls, us of one unit
          useful   launch   memory   no work
  load         1        -        1         -
  store        -      0.5        -       1.5

phases
  multiply   2 us

digests
  program_hash   0011223344556677
  machine_hash   8899aabbccddeeff"""


def test_a_run_is_shown_under_headings_without_its_zeros() -> None:
    assert run_text(metrics()) == GOLDEN


def test_stalls_of_less_than_a_femtosecond_of_one_unit_are_none() -> None:
    stalls = {"load": {"memory": 2 * 10**9, "useful": 2 * 10**9, "launch": 1}, "store": {"useful": 4 * 10**9, "bus": 4}}
    table = run_text(metrics() | {"stalls": stalls}).split("stalls, us of one unit\n")[1].split("\n\n")[0]
    assert [line.split() for line in table.splitlines()] == [
        ["useful", "bus", "memory"],
        ["load", "1", "-", "1"],
        ["store", "2", "2e-09", "-"],
    ]


def test_a_number_that_no_heading_is_known_for_stands_at_the_end() -> None:
    assert "\n\nother\n  row_swaps   17\n\ndigests\n" in run_text(metrics() | {"row_swaps": 17})


def test_a_machine_without_energies_has_no_heading_for_them() -> None:
    bare = metrics() | {"energy_pj": None, "energy_bound_pj": None, "energy_by_component_pj": None}
    assert "energy" not in run_text(bare)


def test_no_number_of_a_real_run_is_lost_but_zeros() -> None:
    found = evaluate.simulate(Query("npu-hbm3", "gemm", options=(("m", 64), ("n", 64), ("k", 64)))).metrics
    words = [word.strip() for line in run_text(found).splitlines() for word in line.split("   ")]
    for name, value in flatten(found).items():
        if value and not name.startswith("stalls."):  # stalls are shown per unit
            shown = number("" if name.count(".") == 2 or "_pj" in name else name, value)
            assert shown in words, name
