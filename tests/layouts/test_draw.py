"""The pictures, read back as XML: what stands in the cells is what the layout says."""

import itertools
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layouts import AddressMap, E, Layout, NamedLayout, Table, X, named, swizzle
from layouts.draw import (
    bits_svg,
    by_bank,
    by_burst,
    by_field,
    grid_svg,
    heat_svg,
    html_page,
    repr_svg,
    stripes_svg,
)
from layouts.draw.stripes import feeds

SVG = "{http://www.w3.org/2000/svg}"
MAP = AddressMap.create(
    ["offset:5", "channel:2", "column:2", "bank_group:2", "bank:2", "column", "row"],
    ["bank[0] ^= row[0]", "bank_group[1] ^= row[2]", "channel[0] ^= row[0] row[1]"],
    {"stack": 1, "channel": 4, "pseudo_channel": 1, "bank_group": 4, "bank": 4, "row": 64, "column": 8},
    32,
    "hashed",
)
FIVE = AddressMap.create(
    ["offset:5", "channel", "column", "bank_group", "bank", "row"],
    [],
    {"stack": 1, "channel": 5, "pseudo_channel": 1, "bank_group": 4, "bank": 4, "row": 64, "column": 8},
    32,
    "five channels",
)


def read(svg):
    """The cells as {(row, column): (text, fill, hover)}, and all other texts."""
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    cells = []
    for group in root.findall(f"{SVG}g"):
        if group.get("class") == "key":
            continue
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        hover = group.find(f"{SVG}title")
        place = float(rect.get("y")), float(rect.get("x"))
        cells.append((place, (text.text, rect.get("fill"), hover.text if hover is not None else "")))
    loose = [text.text or "" for text in root.findall(f"{SVG}text")]
    ys, xs = sorted({p[0] for p, _ in cells}), sorted({p[1] for p, _ in cells})
    return {(ys.index(y), xs.index(x)): cell for (y, x), cell in cells}, loose


def within(svg):
    """Whether every rectangle and horizontal text of a picture lies inside it."""
    root = ElementTree.fromstring(svg)
    width, height = float(root.get("width")), float(root.get("height"))
    for text in root.iter(f"{SVG}text"):
        if text.get("x") is None:
            continue
        share = {"middle": 0.5, "end": 1.0}.get(text.get("text-anchor"), 0.0)
        wide = len(text.text or "") * 0.602 * 11
        left = float(text.get("x")) - share * wide
        assert left >= 0
        assert left + wide <= width + 1
        assert 0 <= float(text.get("y")) <= height
    return True


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(1, 6), st.integers(1, 7)), st.tuples(st.integers(-9, 40), st.integers(-9, 40)))
def test_the_numbers_in_the_cells_are_the_offsets(shape, stride):
    layout = Layout(shape, stride)
    svg = grid_svg(layout)
    cells, _ = read(svg)
    assert len(cells) == layout.size
    for (i, j), (text, _, hover) in cells.items():
        assert int(text) == i * stride[0] + j * stride[1]
        assert hover == f"mode 0 {i}, mode 1 {j}: {text}"
    assert within(svg)


def test_a_single_mode_goes_across_in_lines():
    cells, texts = read(grid_svg(Layout(70, 3)))
    assert [int(cells[k // 32, k % 32][0]) for k in range(70)] == list(range(0, 210, 3))
    assert len(cells) == 70
    assert "64" in texts
    assert "+31" in texts


def test_more_modes_go_down_unless_told_otherwise():
    kv = named("token//2 head dim token%2", {"head": 3, "token": 4, "dim": 5})
    cells, texts = read(grid_svg(kv))
    for head, token, dim in itertools.product(range(3), range(4), range(5)):
        assert int(cells[head * 4 + token, dim][0]) == kv.offset(head=head, token=token, dim=dim)
    assert {"head,token", "dim", "2,3"} <= set(texts)
    turned, _ = read(grid_svg(kv, rows=["dim"]))
    for head, token, dim in itertools.product(range(3), range(4), range(5)):
        assert int(turned[dim, head * 4 + token][0]) == kv.offset(head=head, token=token, dim=dim)
    with pytest.raises(ValueError, match=r"rows: there is no mode 'page', allowed are head, token, dim or 0\.\.2"):
        grid_svg(kv, rows=["page"])


def test_cells_have_one_colour_exactly_when_they_lie_in_one_bank():
    layout = Layout((8, 64), (64, 1)).then(swizzle(3, 3, 3))
    cells, texts = read(grid_svg(layout, by_bank(element_bytes=2, bank_bytes=4, banks=32)))
    colour_of = {}
    for i, j in itertools.product(range(8), range(64)):
        bank = layout(i, j) * 2 // 4 % 32
        text, fill, hover = cells[i, j]
        assert int(text) == layout(i, j)
        assert hover.endswith(f"bank {bank}")
        assert colour_of.setdefault(bank, fill) == fill
    assert len(set(colour_of.values())) == 32
    assert "bank" in texts


@pytest.mark.parametrize("fields", ["channel", "row", ("channel", "bank_group", "bank")])
def test_cells_are_coloured_by_where_the_address_map_puts_them(fields):
    kv = named("page token dim", {"page": 4, "token": 4, "dim": 64})
    cells, _ = read(grid_svg(kv, by_field(MAP, fields, element_bytes=2, base=4096)))
    names = [fields] if isinstance(fields, str) else fields
    groups = {}
    for (i, j), (_, fill, hover) in cells.items():
        location = MAP.decode(kv.offset(page=i // 4, token=i % 4, dim=j) * 2 + 4096)
        place = tuple(int(getattr(location, name)) for name in names)
        groups.setdefault(hover.rsplit(" ", 1)[1], set()).add((place, fill))
    assert all(len(group) == 1 for group in groups.values())
    assert len(set().union(*groups.values())) == len(groups)


def test_bursts_next_to_each_other_differ_in_colour():
    cells, texts = read(grid_svg(Layout((4, 64), (64, 1)), by_burst(element_bytes=2, burst_bytes=32)))
    fills = [cells[i, j][1] for i, j in itertools.product(range(4), range(0, 64, 16))]
    assert all(a != b for a, b in itertools.pairwise(fills))
    assert all(cells[0, j][1] == fills[0] for j in range(16))
    assert "colours repeat" in texts


def test_a_layout_with_axes_shows_all_of_them():
    cells, texts = read(grid_svg(Layout((4, 8), (E("lane") * 4, E("m")))))
    assert cells[3, 5][0] == "12,5"
    assert "values: lane,m" in texts
    numbered, _ = read(grid_svg(Layout((4, 2), (E(0) * 3, E(1)))))
    assert numbered[2, 1][0] == "6,1"


def test_large_grids_are_cut_and_say_so():
    svg = grid_svg(Layout((300, 2**40), (2**40, 1)), by_bank(4), most=1000)
    cells, texts = read(svg)
    assert len(cells) == 128 * 128
    assert int(cells[127, 127][0]) == 127 * 2**40 + 127
    assert f"cut: the first 128 of 300 rows and 128 of {2**40} columns are shown" in texts
    assert len(svg) < 4_000_000
    assert not any("cut" in text for text in read(grid_svg(Layout((128, 128))))[1])


def test_chains_without_a_closed_form_are_drawn_however_large():
    long = Layout((2**20, 2**20), (3, 2**22)).then(swizzle(3, 3, 3), Layout((5, 1), (1, 7)))
    cells, _ = read(repr_svg(long))
    assert all(int(cells[i, j][0]) == long(i, j) for i, j in itertools.product((0, 5, 31), (0, 7, 31)))
    beyond = Layout((2**40, 2**40), (1, 2**20))
    assert int(read(repr_svg(beyond))[0][3, 4][0]) == 3 + 4 * 2**20


def test_what_cannot_be_drawn_is_said_in_words():
    _, texts = read(repr_svg(Layout(4).then(Table([1, 2]))))
    assert any("cannot be drawn" in text and "outside" in text for text in texts)
    assert read(repr_svg(Layout((4, 4))))[0][1, 1][0] == "5"
    assert read(repr_svg(Layout((4, 0))))[0] == {}


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "\"'><img src=x>", "a\x00b\x1b[31m\ud800", "&amp;" * 400]
)
def test_hostile_names_and_titles_are_only_text(hostile):
    layout = NamedLayout((hostile, "b"), Layout((2, 3), (3, 1)))
    for svg in (
        grid_svg(layout, title=hostile),
        grid_svg(layout),
        repr_svg(layout),
        bits_svg(NamedLayout((hostile,), Layout(4)), title=hostile),
        stripes_svg(NamedLayout((hostile,), Layout(4)), MAP, 2, title=hostile),
        heat_svg([1, 2], title=hostile, down=hostile, across=hostile),
    ):
        tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(svg).iter()}
        assert tags <= {"svg", "g", "rect", "text", "line", "path", "title"}
        page = html_page(hostile, [(hostile, svg, hostile)])
        seen = Tags()
        seen.feed(page)
        assert not {"script", "img"} & seen.tags
        page.encode()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()
        self.links = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_a_page_needs_no_network_and_holds_its_pictures():
    svg = grid_svg(Layout((2, 2)))
    page = html_page("two", [("first", svg), ("second", heat_svg([[1, 2]]), "words < here")])
    seen = Tags()
    seen.feed(page)
    assert seen.links == []
    assert page.count("<svg ") == 2
    assert "words &lt; here" in page
    assert "default-src 'none'" in page
    with pytest.raises(ValueError, match="section 'x': expected an SVG picture"):
        html_page("t", [("x", "<b>no</b>")])


def test_heat_maps_show_every_number_and_the_worst():
    given = np.array([[1, 2, 32], [4, 1, 8]])
    cells, texts = read(heat_svg(given, down="warp"))
    assert {place: int(cell[0]) for place, cell in cells.items()} == {(i, j): given[i, j] for i, j in np.ndindex(2, 3)}
    assert cells[0, 0][1] == cells[1, 1][1]
    assert len({cell[1] for cell in cells.values()}) == 5
    assert any("worst 32" in text and "4 of 6 accesses" in text for text in texts)
    line, _ = read(heat_svg(np.arange(70)))
    assert [int(line[k // 32, k % 32][0]) for k in range(70)] == list(range(70))
    assert any("cut: 128 of 200 rows" in text for text in read(heat_svg(np.ones((200, 3), dtype=int)))[1])
    for wrong in ([], [0.5], [[[1]]], [-1]):
        with pytest.raises(ValueError, match="wavefronts: "):
            heat_svg(wrong)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 63), min_size=1, max_size=6), st.integers(0, 63))
def test_the_bit_matrix_is_what_single_bits_change(values, constant):
    layout = Layout((2,) * len(values), tuple(map(X, values)), 0).then(Layout((64, 1), (X(1), 0)))
    layout = Layout(layout.shape, layout.stride, constant, layout.stages)
    cells, _ = read(bits_svg(layout))
    for (row, column), (text, _, _) in cells.items():
        change = layout(0) if column == len(values) else layout(1 << column) ^ layout(0)
        assert int(text) == change >> row & 1


def test_the_bit_matrix_names_its_bits_and_refuses_what_is_not_linear():
    svg = bits_svg(named("row column", {"row": 8, "column": 4}))
    root = ElementTree.fromstring(svg)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"row[2]", "column[1]", "offset[4]"} <= set(texts)
    grouped = bits_svg(Layout((4, 4), (E("lane") * X(5), E("m"))))
    assert "lane[3]" in grouped
    with pytest.raises(ValueError, match="not linear over F2"):
        bits_svg(Layout((3, 4)))


def test_stripes_of_linear_layouts_are_what_single_bits_change():
    layout = Layout((16, 8, 128), (2048, 128, 1)).then(swizzle(3, 3, 5))
    sizes = (16, 8, 128)
    found = {(f.axis, f.bit, f.field, f.field_bit) for f in feeds(layout, MAP, 2) if f.always}
    assert all(feed.always for feed in feeds(layout, MAP, 2))
    expected = set()
    for k, size in enumerate(sizes):
        for bit in range(size.bit_length() - 1):
            point = [0, 0, 0]
            point[k] = 1 << bit
            address = 2 * layout(*point)
            location = {**MAP.decode(address)._asdict(), "byte": address % 32}
            for field, value in location.items():
                expected |= {(f"mode {k}", bit, field, place) for place in range(8) if int(value) >> place & 1}
    assert found == expected


def test_stripes_through_carries_are_dashed():
    layout = named("token dim", {"token": 20, "dim": 128})
    kinds = {(f.field, f.always) for f in feeds(layout, FIVE, 2)}
    assert ("byte", True) in kinds
    assert ("channel", False) in kinds
    svg = stripes_svg(layout, FIVE, 2)
    paths = ElementTree.fromstring(svg).findall(f"{SVG}path")
    dashed = {path.find(f"{SVG}title").text for path in paths if path.get("stroke-dasharray")}
    assert len(paths) == len(feeds(layout, FIVE, 2))
    assert all(text.endswith("sometimes") for text in dashed)
    assert len(dashed) == sum(not f.always for f in feeds(layout, FIVE, 2))
    assert within(svg)


def test_stripes_list_the_sources_of_every_location_bit():
    layout = named("page head dim", {"page": 32, "head": 8, "dim": 128})
    _, texts = read(stripes_svg(layout, MAP, 2))
    assert "[0] page[0] ^ head[1]" not in texts
    row0 = next(f for f in feeds(layout, MAP, 2) if (f.field, f.field_bit) == ("row", 0))
    assert any(f"{row0.axis}[{row0.bit}]" in text and " ^ " in text for text in texts)  # hashed into bank and channel
    assert {"row", "column", "bank", "bank_group", "channel", "byte"} <= set(texts)
    with pytest.raises(ValueError, match="capacity"):
        stripes_svg(named("a b", {"a": 2**20, "b": 2**20}), MAP, 2)
    with pytest.raises(ValueError, match="has axes"):
        stripes_svg(Layout(4, E(0)), MAP, 2)


def test_unknown_fields_and_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="unknown field 'banks', allowed are bank"):
        by_field(MAP, "banks", 2)
    with pytest.raises(ValueError, match="banks is 0"):
        by_bank(4, banks=0)
    with pytest.raises(ValueError, match="burst_bytes is -1"):
        by_burst(4, -1)
