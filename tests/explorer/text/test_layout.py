from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from explorer.text import layout as layout_view
from layouts import interop, parse

Rowhit = Callable[..., CompletedProcess[str]]
ATOM = "Sw<3,3,3> o 0 o (64,64):(64,1)"
SPELLINGS = (
    ATOM,
    "((8,8),64):((X72,512),1)",
    "ComposedLayout<Swizzle<3,3,3>, _0, Layout<Shape<_64,_64>, Stride<_64,_1>>>",
    "!ttg.memdesc<64x64xf16, #ttg.nvmma_shared<{swizzlingByteWidth = 128, transposed = false, elementBitWidth = 16}>>",
    "T.ComposeLayout(3, 3, 3, T.TileLayout(T.S[(64, 64):(64, 1)]))",
)
READ = "vector=1:8 lanes=0:8"  # ldmatrix: 16 bytes of each of 8 rows


def test_the_swizzled_tile_is_one_value_in_every_dialect() -> None:
    read = [interop.read(text) for text in SPELLINGS]
    assert all(layout == parse(ATOM) for layout in read)
    assert [interop.dialect_of(text) for text in SPELLINGS] == ["cute", "cute", "cute", "triton", "tvm"]


@pytest.mark.parametrize("dialect", ["cute", "triton", "tvm"])
def test_what_is_written_as_another_system_writes_it_reads_back(dialect: str) -> None:
    written = layout_view.spelt(parse(ATOM), dialect, 2)
    assert interop.read(written) == parse(ATOM)


@pytest.mark.parametrize("dialect", ["xla", "mlir"])
def test_what_a_system_cannot_express_is_named(dialect: str) -> None:
    with pytest.raises(ValueError, match="XOR stride X72"):
        layout_view.spelt(parse(ATOM), dialect, 2)
    written = layout_view.spelt(parse("(32,200):(200,1)"), dialect, 2)
    assert "bf16" in written
    assert interop.read(written) == parse("(32,200):(200,1)")


@pytest.mark.parametrize(("text", "worst"), [("(64,64):(64,1)", 8), (ATOM, 1), ("(64,64):(72,1)", 1)])
def test_conflicts_of_an_ldmatrix_read_without_swizzle_with_it_and_with_padding(text: str, worst: int) -> None:
    found = layout_view.conflicts_of(parse(text), READ, 2)
    assert (found["phases"], found["worst_phase"], found["least_per_phase"]) == (64, worst, 1)
    assert found["wavefronts"] == 64 * worst
    assert layout_view.wavefronts_of(parse(text), READ, 2) == [worst] * 64


def test_the_least_of_a_phase_is_no_more_than_it_takes_where_elements_are_shared() -> None:
    wide = "vector=1:8 lanes=0:32"
    shared = layout_view.conflicts_of(parse("(128,64):(0,1)"), wide, 2)  # every row is the same row
    assert (shared["least_per_phase"], shared["worst_phase"]) == (1, 1)
    apart = layout_view.conflicts_of(parse("S<3,3,3> o 0 o (128,64):(64,1)"), wide, 2)
    assert (apart["least_per_phase"], apart["worst_phase"]) == (4, 4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vector=1:8", "lanes is missing"),
        ("lanes=0:8 banks=32", "banks=32: expected 32x4"),
        ("lanes=0:8 vctor=1:8", "did you mean 'vector'?"),
        ("lanes", "expected name=value"),
        ("lanes=0:8 element=two", "element=two"),
        ("lanes=0:7", "do not divide the tile"),
        ("lanes=5:8", "do not divide the tile"),
        ("lanes=0:4 lanes=1:8", "lanes is given twice; parts of the lanes are joined by +"),
    ],
)
def test_an_access_that_cannot_be_read_is_one_clear_line(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^(conflicts|access)") as caught:
        layout_view.conflicts_of(parse(ATOM), spec, 2)
    assert message in str(caught.value)


def test_the_command_explains_converts_counts_and_draws(rowhit: Rowhit, tmp_path: Path) -> None:
    written = rowhit("layout", "bf16[32,200]{1,0:T(8,128)(2,1)}", "--as", "mlir", cwd=tmp_path).stdout
    assert written.startswith("memref<32x200xbf16, affine_map<")
    done = rowhit(
        "layout", ATOM, "--conflicts", READ, "--draw", "tile.html", "--machine", "npu-hbm3", "--json", cwd=tmp_path
    )
    assert done.stderr == ""
    facts = json.loads(done.stdout)
    assert {"dialect", "layout", "size", "cosize", "injective", "f2_linear", "explained"} <= facts.keys()
    assert facts["conflicts"]["worst_phase"] == 1
    page = (tmp_path / "tile.html").read_text()
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("<svg") == 7
    text = rowhit("layout", ATOM, "--conflicts", READ, cwd=tmp_path).stdout
    assert "bank conflicts: 64 wavefronts in 64 phases" in text


@pytest.mark.parametrize(
    ("text", "dialect", "expected"),
    [
        ("f32[3,5]{1,0}", "xla", "f32[3,5]{1,0}"),
        ("f32[3,5]{1,0}", "mlir", "memref<3x5xf32"),
        ("memref<3x5xi32>", "xla", "s32[3,5]{1,0}"),
        ("(3,5):(5,1)", "xla", "bf16[3,5]{1,0}"),
        ("lambda i: (i, 0)", "tvm", "T.index_map(lambda i0: (i0, 0))"),
    ],
)
def test_the_type_of_the_elements_is_kept(
    rowhit: Rowhit, tmp_path: Path, text: str, dialect: str, expected: str
) -> None:
    shape = ("--shape", "8") if "lambda" in text else ()
    assert rowhit("layout", text, "--as", dialect, *shape, cwd=tmp_path).stdout.startswith(expected)


def test_the_bytes_of_an_element_come_from_the_text_the_option_or_the_access(rowhit: Rowhit, tmp_path: Path) -> None:
    def worst(*arguments: str) -> int:
        return int(json.loads(rowhit("layout", *arguments, "--json", cwd=tmp_path).stdout)["conflicts"]["worst_phase"])

    access = ("--conflicts", "vector=1:4 lanes=1:16")
    assert worst("(64,64):(64,1)", *access) == 1
    assert worst("(64,64):(64,1)", *access, "--element-bytes", "4") == 2
    assert worst("f32[64,64]{1,0}", *access) == 2
    assert worst("f32[64,64]{1,0}", "--conflicts", "vector=1:4 lanes=1:16 element=2") == 1


def test_the_heat_map_agrees_with_the_count_where_no_form_is_closed() -> None:
    tile = parse("S<3,3,3> o 0 o (64,64):(72,1)")
    for spec in ("vector=1:8 lanes=0:8", "vector=0:1 lanes=1:4+0:8 banks=12x4 element=6"):
        found = layout_view.conflicts_of(tile, spec, 2)
        degrees = layout_view.wavefronts_of(tile, spec, 2)
        assert (len(degrees), sum(degrees), max(degrees)) == (
            found["phases"],
            found["wavefronts"],
            found["worst_phase"],
        )


@pytest.mark.parametrize("text", ["(3,1):(1,X5) o " * 16 + "(5592405,3):(1,X3)", "16777215:X1"])
def test_what_would_take_long_to_see_is_not_decided(text: str) -> None:
    _, facts = layout_view.facts_of(text)
    assert facts["injective"] is None
    assert facts["cosize"] is None


def test_a_hostile_title_is_escaped_in_the_page() -> None:
    page = layout_view.page_of(parse("(4,4):(4,1)"), "<script>alert(1)</script>", 2)
    assert "<script>alert" not in page
    start, end = page.index("<svg"), page.index("</svg>") + len("</svg>")
    assert ElementTree.fromstring(page[start:end]).tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("(64,64:(64,1)",), "at position 6: expected ',' or ')', found ':'"),
        (("4:1", "--as", "mlr"), "mlir"),
        (("4:1", "--shape", "4"), "says its shape itself"),
        (("affine_map<(d0) -> (d0)>", "--shape", "four"), "--shape 'four': expected extents"),
        (("(" * 60_000,), "tuples nest deeper than 32 levels"),
        (
            ("4:1", "--draw", "no/such/folder.html"),
            "rowhit: --draw: no/such/folder.html: allowed: a file in a folder that is there",
        ),
        (("4:1", "--machine", "npu-hbm3"), "give --draw too"),
        (("f32[-3,4]",), "dimension -3 is not allowed"),
        (("(0,4):(1,1)", "--conflicts", "lanes=1:2"), "has no elements"),
        (("(8,3):(X4611686018427387904,1)",), "do not fit 64 bits"),
        (("4:1", "--draw", "x.html", "--machine", "h100-smx"), "h100-sxm"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    rowhit: Rowhit, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = rowhit("layout", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rowhit: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
