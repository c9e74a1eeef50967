from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwmodel.machine import Machine
from hwmodel.program import NONE, Tensor
from hwmodel.spec import load_machine
from layouts import named
from workloads.colours import imbalance, page_colours
from workloads.paging import contiguous, page_table, shuffled
from workloads.placement import Partitioned, place, place_as

NPU = Machine(load_machine("npu-hbm3"))
MAP = NPU.address_map
CHANNELS = ("stack", "channel", "pseudo_channel")


def cache(pages: int, heads: int = 8) -> Tensor:
    sizes = {"page": pages, "kv": 2, "head": heads, "token": 16, "dim": 128}
    return place([Tensor("kv", named("page kv token head dim", sizes), "bf16", NONE)], NPU)[0]


def test_a_colour_is_where_the_first_byte_of_a_page_lies() -> None:
    tensor = replace(cache(70), base_bytes=2 << 30)
    for page, colour in enumerate(page_colours(tensor, MAP, CHANNELS, head=3).tolist()):
        address = tensor.base_bytes + tensor.layout.offset(page=page, kv=0, head=3, token=0, dim=0) * 2
        where = MAP.decode(address)
        assert colour == (int(where.stack) * 16 + int(where.channel)) * 2 + int(where.pseudo_channel)


def test_coloured_pages_spread_better_over_the_banks_than_pages_in_order_or_at_random() -> None:
    contexts = [16 * 32] * 16  # the same page of all sequences lies in two of the eight banks where pages are in order
    tensor = cache(512)
    colours = page_colours(tensor, MAP, ("bank",))
    one_hot = np.eye(8, dtype=np.int64)[colours]
    tables = {
        "contiguous": contiguous(contexts, 16),
        "shuffled": shuffled(contexts, 16, np.random.default_rng(1)),
        "coloured": page_table("coloured", contexts, 16, np.random.default_rng(1), colours=colours),
    }
    found = {name: imbalance(table, one_hot) for name, table in tables.items()}
    assert found["contiguous"] == 4
    assert 1.5 < found["shuffled"] < 4
    assert found["coloured"] == 1


def test_imbalance_is_the_busiest_value_over_the_mean_window_by_window() -> None:
    bursts = np.array([[4, 0], [0, 4], [4, 0], [0, 4]])
    apart = page_table("contiguous", [32, 32], 16, np.random.default_rng(0))  # pages 0 1, 2 3
    assert imbalance(apart, bursts) == 2  # 0 and 2 together, then 1 and 3
    assert imbalance(apart, bursts, window=2) == 1


@pytest.mark.parametrize(
    ("fields", "at", "message"),
    [
        (("stak",), {}, "colours: unknown field 'stak'; known: stack, "),
        (("stack",), {"heads": 1}, "tensor kv: no axis 'heads'; known: head, "),
    ],
)
def test_a_field_or_an_axis_that_does_not_exist_is_refused(
    fields: tuple[str, ...], at: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        page_colours(cache(2), MAP, fields, **at)


def test_a_tensor_without_pages_is_refused() -> None:
    with pytest.raises(ValueError, match="tensor q: no axis page; it has x"):
        page_colours(Tensor("q", named("x", {"x": 4}), "bf16", 0), MAP, CHANNELS)


def test_where_sram_lies_beside_cores_a_pages_colour_is_its_core() -> None:
    local = Machine(load_machine("npu-sram-local"))
    sizes = {"page": 128, "kv": 2, "head": 2, "token": 16, "dim": 64}
    tensor = Tensor("kv", named("page kv token head dim", sizes), "bf16", NONE)
    (placed,) = place_as([tensor], [Partitioned("page", "core", "cyclic")], local)
    assert page_colours(placed, local.address_map, ("stack",)).tolist() == [page % 64 for page in range(128)]
