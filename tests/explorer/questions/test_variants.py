from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest

from explorer.query import Query
from explorer.questions.fidelity import Measured
from explorer.questions.sweep import parse_axis
from explorer.questions.variants import Table, what_if
from explorer.questions.window_error import known_error
from explorer.storage.row import all_numbers, flatten
from explorer.study.settings import parse
from explorer.workers import SerialExecutor, workers

QUERY = Query("nowhere", "fake")


def asked(
    fake: ModuleType, *changes: str, sweep: tuple[str, ...] = (), against: str = "", query: Query = QUERY
) -> Table:
    """Return a what-if of the fake simulator, written as on the command line."""
    axes = [parse_axis(text) for text in sweep]
    other = parse(against) if against else ()
    return what_if((query,), [parse(text) for text in changes], axes, "exact", fake.ASKER, SerialExecutor(), other)


def test_every_number_stands_with_its_difference_from_the_baseline(fake: ModuleType) -> None:
    record = asked(fake, "hbm.stacks=2", "tile=64,stages=3").record()
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


def test_a_design_that_cannot_run_is_called_by_its_name_where_it_has_one(fake: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^number 3: tile 2048: needs"):
        what_if(
            (QUERY,), [parse("tile=2048")], (), "exact", fake.ASKER, SerialExecutor(), names=["the winner", "number 3"]
        )


def test_the_table_has_a_line_per_number_and_two_columns_per_variant(fake: ModuleType) -> None:
    table = asked(fake, "hbm.stacks=2")
    lines = str(table).split("\n\n")[0].splitlines()[1:]
    hashes = [name for name in all_numbers(table.record()["baseline"]) if name.endswith("_hash")]
    assert len(lines) == 1 + len(all_numbers(table.record()["baseline"])) - len(hashes)
    bound = next(line for line in lines if line.startswith("bound_us"))
    assert bound.split() == ["bound_us", "490", "us", "980", "us", "+100.0", "%"]


def test_stalls_differ_by_what_the_table_shows_of_the_average_unit(fake: ModuleType) -> None:
    table = asked(fake, "hbm.stacks=2")
    baseline, (half,) = table.record()["baseline"], table.record()["variants"]
    assert baseline["stalls"] == half["stalls"] == {"load": {"useful": 5, "memory": 7}}  # sums stay as simulated
    slower = half["time_us"] / baseline["time_us"] - 1  # 5 parts of 12 of the time, whatever it is
    assert half["difference"]["stalls"]["load"]["useful"] == pytest.approx(slower)
    assert slower > 0.5
    rows = [line.split() for line in str(table).splitlines()]
    _, before, _, after, _, difference, _ = next(row for row in rows if row[:1] == ["stalls_us.load.useful"])
    assert float(difference) == pytest.approx(100 * (float(after) / float(before) - 1), abs=0.1)


def test_baseline_and_variants_have_the_shape_of_one_run(fake: ModuleType) -> None:
    record = asked(fake, "tile=64").record()
    assert record["baseline"] == fake.measure(QUERY, "exact").metrics
    (variant,) = record["variants"]
    assert flatten(variant["difference"]).keys() <= flatten(variant).keys()


def test_the_energy_stands_beside_the_time_of_every_variant(fake: ModuleType) -> None:
    table = asked(fake, "tile=64", query=Query("somewhere", "fake"))
    record = table.record()
    (variant,) = record["variants"]
    before, after = record["baseline"]["energy_pj"], variant["energy_pj"]
    assert [before, after] == [sum(row["energy_by_component_pj"].values()) for row in (record["baseline"], variant)]
    assert variant["difference"]["energy_pj"] == pytest.approx(after / before - 1)
    line = next(line for line in str(table).splitlines() if line.startswith("energy_pj"))
    assert line.split()[1:] == [f"{before:,.1f}", "pJ", f"{after:,.1f}", "pJ", "+76.2", "%"]


def test_a_variant_that_cannot_run_is_named(fake: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"--set tile=2048: tile 2048: needs"):
        asked(fake, "tile=2048")


def test_one_of_several_variants_that_cannot_run_keeps_its_place_and_says_why(fake: ModuleType) -> None:
    table = asked(fake, "tile=2048", "tile=64")
    beside, alone = table.record(), asked(fake, "tile=64").record()
    reason = table.cells[1].reason
    assert reason.startswith("tile 2048: needs")
    assert beside["answers"] == [alone["answers"][0], None, alone["answers"][1]]
    assert beside["variants"] == [
        {"set": {"tile": 2048}, "same_as": None, "reason": reason, "difference": {}},
        *alone["variants"],
    ]
    assert f"\ncannot run (tile=2048): {reason}\n" in str(table)
    lines = {line.split()[0]: line.split() for line in str(table).splitlines() if line}
    assert lines["time_us"][3:5] == ["cannot", "run"]
    assert "cannot" not in lines["bound_us"]
    assert "cannot run" in table._repr_html_()


def test_a_variant_that_can_run_at_no_point_of_a_sweep_leaves_the_others(fake: ModuleType) -> None:
    table = asked(fake, "tile=2048", "tile=64", sweep=("stages=2,3",))
    assert [cell.cost is None for cell in table] == [False, True, False] * 2
    assert [row["reason"][:9] for row in table.rows()] == ["", "tile 2048", ""] * 2


def test_variants_none_of_which_can_run_are_an_error_and_so_is_a_baseline_that_cannot(fake: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^--set tile=2048: tile 2048: needs"):
        asked(fake, "tile=2048", "tile=4096")
    with pytest.raises(ValueError, match=r"^tile 2048: needs"):
        asked(fake, "tile=64", "stages=3", query=QUERY.with_knob("tile", 2048))
    with pytest.raises(ValueError, match=r"^--against tile=2048: tile 2048: needs"):
        asked(fake, "tile=64", "stages=3", against="tile=2048")


def test_of_named_designs_each_must_run(fake: ModuleType) -> None:
    changes = [parse("tile=2048"), parse("tile=64")]
    with pytest.raises(ValueError, match=r"^number 2: tile 2048: needs"):
        what_if(
            (QUERY,), changes, (), "exact", fake.ASKER, SerialExecutor(), names=["the winner", "number 2", "number 3"]
        )


def test_variants_are_the_same_in_a_pool(fake: ModuleType) -> None:
    changes = [parse("tile=64"), parse("stages=3"), parse("hbm.stacks=2")]
    axes = [parse_axis("tile=16..64*2")]
    with workers(2) as pool:
        found = what_if((QUERY,), changes[1:], axes, "exact", fake.ASKER, pool)
        assert found == what_if((QUERY,), changes[1:], axes, "exact", fake.ASKER, SerialExecutor())


def test_a_sweep_has_a_row_per_point_and_design_in_order(fake: ModuleType) -> None:
    table = asked(fake, "stages=3", sweep=("tile=16..64*2", "hbm.stacks=2,4"))
    rows = table.rows()
    assert [(row["tile"], row["hbm.stacks"], row["design"]) for row in rows] == [
        (tile, stacks, design) for tile in (16, 32, 64) for stacks in (2, 4) for design in ("baseline", "stages=3")
    ]
    for row in rows:
        query = QUERY.with_knob("tile", row["tile"]).with_knob("machine.hbm.stacks", row["hbm.stacks"])
        query = query.with_knob("stages", 3) if row["design"] == "stages=3" else query
        assert row["time_us"] == fake.time_us(query)
        plain = query.with_knob("stages", fake.KNOBS["stages"])
        assert row["difference"] == fake.time_us(query) / fake.time_us(plain) - 1
    assert list(table.to_pandas()["time_us"]) == [row["time_us"] for row in rows]


def test_the_title_is_that_of_the_question_and_not_of_a_point(fake: ModuleType) -> None:
    query = Query("nowhere", "fake")
    assert asked(fake, sweep=("tile=16,32",), query=query).title == fake.describe(query)


def test_a_point_that_cannot_run_keeps_its_place_and_says_why(fake: ModuleType) -> None:
    table = asked(fake, sweep=("tile=64..512*2",))
    assert [cell.cost is None for cell in table] == [False, False, True, True]  # 4 x 256 x 2 B are too many
    assert "cannot run (tile 256): tile 256: needs 2048 B of SRAM" in str(table)


def test_a_sweep_of_which_no_point_can_run_is_an_error(fake: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"baseline at 1024: tile 1024: needs 8192 B"):
        asked(fake, sweep=("tile=1024..4096*2",))


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("tiel=1..4", "did you mean 'tile'"),
        ("hbm.stakcs=1..4", "unknown machine path"),
        ("tile=0..4", "must be at least 1"),
    ],
)
def test_a_slip_in_a_sweep_is_an_error(fake: ModuleType, sweep: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(fake, sweep=(sweep,))


def test_what_is_swept_cannot_be_set_too(fake: ModuleType) -> None:
    with pytest.raises(ValueError, match="--set tile: is swept, too"):
        asked(fake, "tile=64,stages=3", sweep=("tile=16..64*2",))
    with pytest.raises(ValueError, match="is swept, too"):
        asked(fake, "machine.hbm.stacks=2", sweep=("hbm.stacks=1..4",))


def test_the_crossing_is_where_whole_numbers_change_the_better_design(fake: ModuleType) -> None:
    """Tile t takes 0.2 (128 - t) more: with three stages 20 us less of bound are worth one tile more than 100."""
    table = asked(fake, "stages=3,layout=page head", sweep=("tile=16..128*2",), against="layout=head page")
    (crossing,) = table.crossings
    assert crossing.flips == ()  # 20 us against 40 at every tile
    other = asked(fake, "hbm.stacks=5,tile=16", sweep=("stages=1..8",))
    (crossing,) = other.crossings

    def better(stages: int) -> bool:
        query = QUERY.with_knob("stages", stages)
        return bool(fake.time_us(query.with_knob("machine.hbm.stacks", 5).with_knob("tile", 16)) < fake.time_us(query))

    assert [flip.begins for flip in crossing.flips] == [
        better(stages + 1) for stages in range(1, 8) if better(stages) != better(stages + 1)
    ]


def test_what_is_the_same_run_is_called_so_instead_of_a_change_of_nothing(fake: ModuleType) -> None:
    table = asked(fake, "tile=32", "tile=64", "tile=64,stages=2", "stages=3")
    first, one, other, another = table.record()["variants"]
    assert [each["same_as"] for each in (first, one, other, another)] == ["baseline", None, "tile=64", None]
    lines = str(table).splitlines()
    assert next(line for line in lines if line.startswith("time_us")).split()[5] == "same"
    assert "+0.0 %" not in next(line for line in lines if line.startswith("bound_us")).split("same")[0]
    assert table.sentences == [
        "tile=32 is the same as baseline: the same program on the same machine",
        "tile=64,stages=2 is the same as tile=64: the same program on the same machine",
    ]
    assert all(sentence in lines for sentence in table.sentences)


def test_what_is_the_same_all_along_an_axis_neither_beats_nor_never_beats_the_other(fake: ModuleType) -> None:
    table = asked(fake, "stages=2", sweep=("tile=16..64*2",))
    assert table.crossings == ()
    assert table.sentences == ["stages=2 is the same as baseline: the same program on the same machine"]
    assert [row["same_as"] for row in table.rows()] == [None, "baseline"] * 3
    assert ["same" in line.split() for line in str(table).splitlines()[2:5]] == [True] * 3


def test_points_of_an_axis_that_are_the_same_run_are_named(fake: ModuleType) -> None:
    table = asked(fake, sweep=("layout=page head,page  head,head page",))
    assert table.sentences == [
        "baseline is the same at layout page head, layout page  head: the same program on the same machine"
    ]


def test_of_many_points_that_are_the_same_a_few_are_named_and_the_rest_counted(fake: ModuleType) -> None:
    sentences = asked(fake, sweep=("tile=16,20,24,28,32", "layout=head page,head  page")).sentences
    assert len(sentences) == 4
    assert sentences[-1] == "and 2 more groups of points that are the same"


def test_designs_that_never_cross_say_which_is_better(fake: ModuleType) -> None:
    never = asked(fake, "layout=page head", sweep=("tile=16..128*2",), against="layout=head page").sentences
    assert never == ["layout=page head never beats layout=head page at tile 16 to 128"]
    always = asked(fake, "layout=head page", sweep=("tile=16..128*2",)).sentences
    assert always == ["layout=head page beats baseline at tile 16 to 128"]


SURE = f"{100 * known_error('auto').worst_ratio:.1f} %"


@pytest.mark.parametrize(
    ("how", "doubt"),
    [
        ("whole", ""),
        ("bound", "lower bounds alone were compared"),
        ("windows", f"times by windows, which are sure of the better one above a difference of {SURE}"),
    ],
)
def test_what_was_not_run_whole_leaves_a_doubt(fake: ModuleType, how: str, doubt: str) -> None:
    def measure(query: Query, fidelity: str) -> Measured:
        return replace(fake.measure(query, fidelity), how=how, fidelity=fidelity)

    asker = replace(fake.ASKER, measure=measure)
    table = what_if((QUERY,), [parse("tile=16")], [parse_axis("stages=2,3")], "auto", asker, SerialExecutor())
    (crossing,) = table.crossings
    assert crossing.doubt == crossing.record()["doubt"] == doubt
    assert crossing.sentence.endswith(doubt)
    far = what_if((QUERY,), [parse("hbm.stacks=2")], [parse_axis("stages=2,3")], "auto", asker, SerialExecutor())
    assert far.crossings[0].doubt == (doubt if how == "bound" else "")  # twice the time is beyond any error


def test_against_alone_compares_the_query_with_it(fake: ModuleType) -> None:
    table = asked(fake, against="layout=head page", sweep=("tile=16,32",))
    assert [design.label for design in table.designs] == ["layout=head page", "baseline"]


def test_a_grid_has_a_crossing_for_every_value_of_the_other_axis(fake: ModuleType) -> None:
    table = asked(fake, "stages=3", sweep=("tile=16..64*2", "hbm.stacks=2,4"))
    assert [crossing.where for crossing in table.crossings] == ["hbm.stacks 2", "hbm.stacks 4"]


def test_too_many_cells_are_refused_before_anything_runs(fake: ModuleType) -> None:
    with pytest.raises(ValueError, match="allowed: 4096 in all"):
        asked(fake, sweep=("tile=1..250", "hbm.stacks=1..64"))


def test_hostile_names_are_escaped_in_html(fake: ModuleType) -> None:
    table = asked(fake, "layout=head  page", query=Query("<script>alert(1)</script>", "fake"))
    html = table._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
