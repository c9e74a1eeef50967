from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.cache import SharedCache
from hwmodel.description import SharedCacheSpec
from hwmodel.hashing import deal
from hwmodel.machine import check_cache, check_tags

BURST = 32


def spec_of(**changes: Any) -> SharedCacheSpec:
    """Return a cache of 16 lines of 128 B, sectors of 32 B, 4 ways, 2 slices; changes in plain numbers of bytes."""
    texts = {"capacity": 2048, "line": 128, "sector": 32, "ways": 4, "slices": 2, "outstanding_misses": 1000} | changes
    sized = {name: f"{texts.pop(name)} B" for name in ("capacity", "line", "sector")}
    return SharedCacheSpec(**sized, **texts, bandwidth="32 GB/s", miss_latency="0 s")


def addresses(bursts: Any) -> Any:
    return np.array(bursts, np.int64) * BURST


class Model:
    """The same cache with sets and dictionaries, burst by burst and without masks: what `SharedCache` must do."""

    def __init__(self, spec: SharedCacheSpec) -> None:
        self.spec = spec
        self.per_line, self.per_sector = spec.line // BURST, spec.sector // BURST
        self.sets = spec.capacity // (spec.line * spec.ways * spec.slices)
        self.places: dict[int, int] = {}  # by line: its set
        self.used: dict[int, list[int]] = {}  # by set: lines, least recently used first
        self.valid: set[int] = set()
        self.dirty: set[int] = set()
        self.pending: dict[int, int] = {}  # burst -> fetch
        self.count = Counter[str]()

    def place(self, line: int) -> int:
        if line not in self.places:
            slices = self.spec.slices
            set_ = deal(np.array([line // slices]), self.sets, other=self.sets == slices)
            self.places[line] = int(deal(np.array([line]), slices)[0]) * self.sets + int(set_[0])
        return self.places[line]

    def bursts(self, line: int) -> range:
        return range(line * self.per_line, (line + 1) * self.per_line)

    def outstanding(self) -> int:
        return len({burst // self.per_line for burst in self.pending})

    def access(self, bursts: list[int], is_write: bool, fetch: int) -> tuple[int, list[int], list[int], set[int]]:
        fetched: list[int] = []
        evicted: list[int] = []
        awaited: set[int] = set()
        at = 0
        while at < len(bursts):
            line, group = bursts[at] // self.per_line, []
            for burst in bursts[at:]:
                if burst // self.per_line != line or burst in group:
                    break
                group.append(burst)
            waits = any(b in self.pending for b in self.bursts(line))
            unknown = [b for b in group if b not in self.valid and b not in self.pending]
            if unknown and not waits and not is_write and self.outstanding() >= self.spec.outstanding_misses:
                break
            lines = self.used.setdefault(self.place(line), [])
            if line not in lines:
                if len(lines) == self.spec.ways:
                    free = [old for old in lines if not any(b in self.pending for b in self.bursts(old))]
                    if not free:
                        break
                    lines.remove(free[0])
                    evicted += [b for b in self.bursts(free[0]) if b in self.dirty]
                    self.valid -= set(self.bursts(free[0]))
                    self.dirty -= set(self.bursts(free[0]))
            else:
                lines.remove(line)
            lines.append(line)
            at += len(group)
            if is_write:
                self.valid |= set(group)
                self.dirty |= set(group)
                self.count["stored"] += len(group)
                continue
            for burst in group:
                self.count["hit" if burst in self.valid else "merged" if burst in self.pending else "missed"] += 1
            awaited |= {self.pending[b] for b in group if b in self.pending and b not in self.valid}
            sectors = {burst // self.per_sector for burst in unknown}
            for burst in self.bursts(line):
                if burst // self.per_sector in sectors and burst not in self.valid and burst not in self.pending:
                    self.pending[burst] = fetch
                    fetched.append(burst)
        return at, fetched, evicted, awaited - {fetch}

    def fill(self, fetch: int) -> None:
        came = {burst for burst, number in self.pending.items() if number == fetch}
        self.valid |= came
        self.pending = {burst: number for burst, number in self.pending.items() if number != fetch}


SCATTERED = st.lists(st.integers(0, 300), min_size=1, max_size=12)
STREAMED = st.builds(lambda first, bursts: [*range(first, first + bursts)], st.integers(0, 280), st.integers(1, 40))
REQUESTS = st.lists(st.tuples(SCATTERED | STREAMED, st.booleans(), st.integers(0, 3)), max_size=60)


@given(
    requests=REQUESTS,
    ways=st.sampled_from([1, 2, 4]),
    slices=st.sampled_from([1, 2, 3]),
    sector=st.sampled_from([32, 64, 128]),
    misses=st.sampled_from([1, 3, 1000]),
    memory=st.sampled_from([0, 40 * 128, 1 << 20]),
)
def test_the_cache_does_what_a_model_of_sets_and_dictionaries_does(
    requests: list[tuple[list[int], bool, int]], ways: int, slices: int, sector: int, misses: int, memory: int
) -> None:
    """Fetches come in the order they were sent, some requests later: `late` many are left on the way.

    How much of memory the cache knows changes nothing.
    """
    spec = spec_of(ways=ways, slices=slices, sector=sector, capacity=128 * ways * slices * 3, outstanding_misses=misses)
    cache, model = SharedCache(spec, BURST, memory), Model(spec)
    under_way: list[Any] = []
    fetched = written_back = 0
    for bursts, is_write, late in requests:
        found = cache.access(addresses(bursts), 0, len(bursts), is_write)
        reached, fetches, evicted, awaited = model.access(bursts, is_write, found.fetch)
        assert found.reached == reached
        assert found.fetched.tolist() == addresses(fetches).tolist()
        assert found.evicted.tolist() == addresses(evicted).tolist()
        assert found.awaited == awaited
        assert model.outstanding() <= misses
        fetched, written_back = fetched + len(fetches), written_back + len(evicted)
        under_way.append(found)
        while len(under_way) > late:
            came = under_way.pop(0)
            cache.fill(came.filled)
            model.fill(came.fetch)
    traffic = cache.traffic()
    for name in ("hit", "missed", "merged", "stored"):
        assert getattr(traffic, name) == model.count[name] * BURST
    assert traffic.asked == sum(model.count.values()) * BURST
    assert (traffic.fetched, traffic.written_back) == (fetched * BURST, written_back * BURST)
    assert traffic.dirty == len(model.dirty) * BURST


def misses_of(lines: list[int], size: int) -> int:
    """Return the bytes missed by loads of whole lines in a fully associative cache of `size` lines."""
    cache = SharedCache(spec_of(capacity=128 * size, ways=size, slices=1, sector=128), BURST)
    for line in lines:
        found = cache.access(addresses(range(4 * line, 4 * line + 4)), 0, 4, False)
        cache.fill(found.filled)
    return cache.traffic().missed


@given(lines=st.lists(st.integers(0, 20), max_size=120), size=st.integers(1, 12), more=st.integers(1, 8))
def test_a_larger_fully_associative_cache_never_misses_more(lines: list[int], size: int, more: int) -> None:
    assert misses_of(lines, size + more) <= misses_of(lines, size)


def test_a_stream_that_fits_hits_from_the_second_pass_on_and_one_that_does_not_never_does() -> None:
    assert misses_of([*range(8)] * 5, 8) == 8 * 128
    assert misses_of([*range(9)] * 5, 8) == 5 * 9 * 128  # least recently used is what comes next


def test_data_that_is_held_from_the_start_is_hit_and_clean() -> None:
    cache = SharedCache(spec_of(), BURST)
    cache.hold(130, 500)  # lines 1 to 4
    found = cache.access(addresses(range(20)), 0, 20, False)
    assert found.fetched.tolist() == addresses(range(4)).tolist()
    cache.fill(found.filled)
    assert len(cache.access(addresses(range(1024, 1088)), 0, 64, True).evicted) == 0
    assert cache.traffic().hit == 16 * BURST


def test_held_data_does_not_bring_its_neighbours_of_the_same_line() -> None:
    cache = SharedCache(spec_of(), BURST)
    cache.hold(3 * BURST, 3 * BURST)  # the last burst of line 0, the first two of line 1
    found = cache.access(addresses(range(8)), 0, 8, False)
    assert found.fetched.tolist() == addresses([0, 1, 2, 6, 7]).tolist()


@pytest.mark.parametrize("slices", [8, 5])
def test_an_aged_cache_is_full_and_writes_back_the_part_of_it_that_was_stored(slices: int) -> None:
    capacity = slices * 4 * 512 * 128
    cache = SharedCache(spec_of(capacity=capacity, ways=4, slices=slices), BURST)
    cache.age(1000, 0.25)
    assert cache.traffic().dirty == capacity // 4
    cache.hold(0, 64 * 128)  # what it pushes out had been written before
    assert cache.traffic().written_back == 0
    left = cache.traffic().dirty
    far = addresses(range(100 * capacity // BURST, 101 * capacity // BURST))  # a multiple of all sets
    for first in range(0, len(far), 1024):
        cache.access(far, first, first + 1024, True)
    assert cache.traffic().written_back == left
    assert cache.traffic().dirty == capacity


def test_a_line_that_is_held_twice_takes_one_place() -> None:
    cache = SharedCache(spec_of(capacity=512, ways=4, slices=1), BURST)
    for _ in range(3):
        cache.hold(0, 512)
    assert cache.access(addresses(range(16)), 0, 16, False).fetched.size == 0


def test_a_request_passes_its_slices_side_by_side_and_one_slice_passes_its_bursts_one_by_one() -> None:
    cache = SharedCache(spec_of(slices=2), BURST)  # 16 GB/s each: a burst in 2 ns
    assert cache.serve(addresses(range(4)), 0, 4, 0) == 8 * 10**6  # a line, in slice 0
    assert cache.serve(addresses(range(4, 8)), 0, 4, 0) == 8 * 10**6  # the next, in slice 1
    assert cache.serve(addresses(range(8)), 0, 8, 10 * 10**6) == 18 * 10**6
    assert cache.busy_fs == 16 * 10**6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sector": 48, "line": 96}, "sector: 48 B is no multiple of a burst of 32 B"),
        ({"sector": 64, "line": 96}, "line: 96 B; allowed: a multiple of the sector of 64 B up to 1024 B"),
        (
            {"line": 2048, "ways": 1, "slices": 1},
            "line: 2048 B; allowed: a multiple of the sector of 32 B up to 1024 B",
        ),
        ({"capacity": 1000}, "capacity: 1000 B is no multiple of 1024 B: 2 slices of 4 ways of lines of 128 B"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
        check_cache(spec_of(**changes), BURST)
    assert str(error.value) == message


def test_a_memory_of_more_lines_than_tags_tell_apart_is_refused() -> None:
    spec = spec_of()
    check_tags(spec, 2**38 * 128 - 1)
    message = "line: 128 B; allowed: fewer than 274877906944 of them in 35184372088832 B of memory"
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_tags(spec, 2**38 * 128)
