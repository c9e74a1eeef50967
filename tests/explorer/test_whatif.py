from __future__ import annotations

from types import ModuleType

import pytest
from explorer.whatif import what_if

from explorer.query import Query
from explorer.row import all_numbers, flatten
from explorer.settings import parse
from explorer.tables import whatif_table
from explorer.workers import SerialExecutor, workers

QUERY = Query("nowhere", "fake")


def test_every_number_stands_with_its_difference_from_the_baseline(fake: ModuleType) -> None:
    record = what_if(QUERY, [parse("hbm.stacks=2"), parse("tile=64,stages=3")], fake.EVALUATOR, SerialExecutor())
    half, other = record["variants"]
    baseline = record["baseline"]
    assert half["set"] == {"hbm.stacks": 2}
    assert other["set"] == {"tile": 64, "stages": 3}
    assert half["bound_us"] == 2 * baseline["bound_us"]
    assert half["difference"]["bound_us"] == 1.0
    for variant in record["variants"]:
        for name, difference in variant["difference"].items():
            if name == "stalls":
                continue
            assert variant[name] == pytest.approx(baseline[name] * (1 + difference))


def test_the_table_has_a_line_per_number_and_two_columns_per_variant(fake: ModuleType) -> None:
    record = what_if(QUERY, [parse("hbm.stacks=2")], fake.EVALUATOR, SerialExecutor())
    table = whatif_table(record)
    assert len(table.splitlines()) == 1 + len(all_numbers(record["baseline"]))
    bound = next(line for line in table.splitlines() if line.startswith("bound_us"))
    assert bound.split() == ["bound_us", "490", "us", "980", "us", "+100.0", "%"]


def test_stalls_differ_by_what_the_table_shows_of_the_average_unit(fake: ModuleType) -> None:
    record = what_if(QUERY, [parse("hbm.stacks=2")], fake.EVALUATOR, SerialExecutor())
    baseline, (half,) = record["baseline"], record["variants"]
    assert baseline["stalls"] == half["stalls"] == {"load": {"useful": 5, "memory": 7}}  # sums stay as simulated
    slower = half["time_us"] / baseline["time_us"] - 1  # 5 parts of 12 of the time, whatever it is
    assert half["difference"]["stalls"]["load"]["useful"] == pytest.approx(slower)
    assert slower > 0.5
    rows = (line.split() for line in whatif_table(record).splitlines())
    _, before, _, after, _, difference, _ = next(row for row in rows if row[0] == "stalls.load.useful")
    assert float(difference) == pytest.approx(100 * (float(after) / float(before) - 1), abs=0.1)


def test_baseline_and_variants_have_the_shape_of_one_run(fake: ModuleType) -> None:
    record = what_if(QUERY, [parse("tile=64")], fake.EVALUATOR, SerialExecutor())
    assert record["baseline"] == fake.simulate(QUERY).metrics
    (variant,) = record["variants"]
    assert flatten(variant["difference"]).keys() <= flatten(variant).keys()


def test_the_energy_stands_beside_the_time_of_every_variant(fake: ModuleType) -> None:
    query = Query("somewhere", "fake")
    record = what_if(query, [parse("tile=64")], fake.EVALUATOR, SerialExecutor())
    (variant,) = record["variants"]
    before, after = record["baseline"]["energy_pj"], variant["energy_pj"]
    assert [before, after] == [sum(row["energy_by_component_pj"].values()) for row in (record["baseline"], variant)]
    assert variant["difference"]["energy_pj"] == pytest.approx(after / before - 1)
    line = next(line for line in whatif_table(record).splitlines() if line.startswith("energy_pj"))
    assert line.split()[1:] == [f"{before:,.1f}", "pJ", f"{after:,.1f}", "pJ", "+76.2", "%"]


def test_a_variant_that_cannot_run_is_named(fake: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"--set tile=2048: tile 2048: needs"):
        what_if(QUERY, [parse("tile=2048")], fake.EVALUATOR, SerialExecutor())


def test_variants_are_the_same_in_a_pool(fake: ModuleType) -> None:
    changes = [parse("tile=64"), parse("stages=3"), parse("hbm.stacks=2")]
    with workers(2) as pool:
        assert what_if(QUERY, changes, fake.EVALUATOR, pool) == what_if(
            QUERY, changes, fake.EVALUATOR, SerialExecutor()
        )
