"""The algebra against cases that CuTe DSL, pycute and tensor-layouts answered, and CuTe's own mistakes."""

import json
import os
from pathlib import Path

import pytest

import layouts
from layouts import Layout, parse

FOLDER = Path(os.environ.get("ROWHIT_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data") / "layouts"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the conformance cases are not here")

OPERATIONS = (
    "coalesce", "complement", "composition", "filter", "left_inverse", "right_inverse", "recast", "logical_divide",
    "zipped_divide", "tiled_divide", "logical_product", "blocked_product", "raked_product",
)  # fmt: skip


def nested(value):
    return tuple(map(nested, value)) if isinstance(value, list) else value


def layout_of(case):
    return Layout(nested(case["shape"]), nested(case["stride"]))


def answer(case):
    operation, a = case["op"], layout_of(case["A"])
    if operation == "filter":
        return layouts.filter_zeros_and_ones(a)
    if operation == "recast":
        return layouts.recast(a, case["old"], case["new"])
    if operation == "complement":
        return layouts.complement(a, case["cotarget"])
    if operation == "coalesce":
        return layouts.coalesce(a, nested(case["profile"]) if "profile" in case else None)
    if "tiler" in case:
        return getattr(layouts, operation)(a, tuple(layout_of(tile) for tile in case["tiler"]))
    return getattr(layouts, operation)(a, *([layout_of(case["B"])] if "B" in case else []))


def holds_by_definition(case, result):
    """Brute force of the definitions for the operations that CuTe gets wrong."""
    a = layout_of(case["A"])
    if case["op"] == "composition":
        b = layout_of(case["B"])
        return result.table().tolist() == [a(b(i)) for i in range(b.size)]
    return False


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_agreed_answer_is_given_in_cutes_own_spelling(operation):
    cases = json.loads((FOLDER / f"cute_{operation}.json").read_text())
    agreed = [case for case in cases if case["tier"] in ("exact", "function")]
    assert agreed or operation == "recast"
    spelt = 0
    for case in agreed:
        result, expected = answer(case), layout_of(case["expect"])
        assert result == expected, case["id"]
        spelt += case["tier"] != "exact" or (result.shape, result.stride) == (expected.shape, expected.stride)
    assert spelt == len(agreed)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_every_implementation_rejects_is_rejected(operation):
    for case in json.loads((FOLDER / f"cute_{operation}.json").read_text()):
        if case["tier"] in ("error", "error_disputed"):
            with pytest.raises(ValueError, match=r"\w") as caught:
                answer(case)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_cute_answers_wrongly_is_rejected_or_right(operation):
    for case in json.loads((FOLDER / f"cute_{operation}.json").read_text()):
        if case["tier"] == "silent_wrong":
            try:
                result = answer(case)
            except ValueError:
                continue
            assert holds_by_definition(case, result), case["id"]


def test_recast_is_cutes_wherever_elements_fall_on_boundaries():
    same = 0
    for case in json.loads((FOLDER / "cute_recast.json").read_text()):
        try:
            result = answer(case)
        except ValueError:
            continue
        same += result == layout_of(case["expect"])
    assert same >= 149


def test_coordinates_give_the_offsets_of_three_implementations():
    for case in json.loads((FOLDER / "cute_crd2idx.json").read_text()):
        layout = layout_of(case["A"])
        assert [layout(nested(crd)) for crd in case["crds"]] == case["expect"]["offsets"], case["id"]


def test_swizzled_layouts_give_cutes_offsets_and_text():
    for case in json.loads((FOLDER / "cute_swizzle.json").read_text()):
        layout = parse(case["str"])
        assert layout.offsets(case["idx"]).tolist() == case["expect"]["offsets"], case["id"]
        assert [layout(i) for i in case["idx"]] == case["expect"]["offsets"]
        assert parse(str(layout)) == layout
        bits, base, shift = case["swizzle"]
        bare = Layout(nested(case["A"]["shape"]), nested(case["A"]["stride"]), case["offset"])
        assert bare.then(layouts.swizzle(bits, base, shift)) == layout
        if bits:
            assert str(layout) == case["str"]
