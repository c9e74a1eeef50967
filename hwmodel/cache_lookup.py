"""The compiled inside of the shared cache: tags, replacement and outstanding misses; see `cache` for what they model.

Sets are more than fit into the nearer caches of the processor that simulates, so that their layout decides how long a
look-up takes: lines that follow one another have sets that do, a set is turned instead of moved, and a bit per line
says which lines need not be looked for.
"""

from __future__ import annotations

from hwmodel.compiled import compiled, inlined
from hwmodel.hashing import place_of, turn_of, turned
from hwmodel.intrinsics import Row, pointer, pointer_of, prefetch_to_read, row_at, trailing_zeros
from hwmodel.runs import BEGIN, BURSTS, RUN_WORDS, Array, append
from hwmodel.slices import quotient

# Numbers of the description; counts of the last access, FETCHED to AWAITED; counts of all. BLOCK: first line of the
# block of lines, one in each slice, that was looked up last, with what turns their slices, and their set.
# Then addresses of tables:
# SET_WORDS [set x slice]: two words of each way; neighbouring lines have neighbouring sets
# OLDEST [set x slice]: 1 << OLDEST_SHIFT bits for the way used longest ago; those behind it were used later, in turn
# HELD [line / 64]: a bit for each of main memory's first NOTED lines, whether it has a way, so that few are looked for
# OWNERS [miss]: whose it is, line + 1; nought where it is free
# MISS_ROWS [miss]: of the outstanding ones, which are few and stay near the processor, unlike sets
# FETCHED_RUNS, EVICTED_RUNS: to read from memory, to write there
# FILLED_PAIRS [line]: (miss, mask) of what those reads will make valid
# AWAITED_FETCHES: numbers of earlier fetches that the request needs too
# SLICE_HASH, SET_HASH: of lines, and of blocks
(
    BURST_BYTES, BURST_SHIFT, LINE_BYTES, LINE_SHIFT, LINE_BURSTS, LINE_BURSTS_SHIFT, SECTOR_BURSTS, SECTORS, SLICES,
    SETS, WAYS, MSHRS, OUTSTANDING, FETCHED, FETCHED_BURSTS, FILLED, EVICTED, EVICTED_BURSTS, AWAITED, HITS, MISSES,
    MERGED, STORED, ALL_FETCHED, ALL_EVICTED, BLOCK, BLOCK_SLICE, BLOCK_SET, FREE_MISS, USED_MISSES, NOTED,
    OLDEST_SHIFT,
    SET_WORDS, OLDEST, HELD, OWNERS, MISS_ROWS, FETCHED_RUNS, FILLED_PAIRS, EVICTED_RUNS, AWAITED_FETCHES,
    SLICE_HASH, SET_HASH,
) = range(43)  # fmt: skip
SCALARS = SET_HASH + 1
RUN = 1024  # assumed: lines of an older stream that are stored and loaded in turn, 128 KiB as by a wave of items
NONE = -1
# The words of a way: line + 1 with the miss it had last, and masks of its bursts: here or on the way, dirty
MISS_SHIFT, DIRTY_SHIFT, WAY_WORDS = 39, 32, 2
LINE_MASK, MASK = (1 << MISS_SHIFT) - 1, (1 << DIRTY_SHIFT) - 1
PROCESSOR_LINE_WORDS = 8  # 64 B
PENDING, NEXT, FETCHES = range(3)  # of a miss: mask of bursts on the way, the next free one, the fetch of each sector


@inlined
def _set_of(c: Row, line: int) -> int:
    """Return the number of the set in which a line may lie; lines of one block share all divisions."""
    inside = line - c[BLOCK]
    if inside < 0 or inside >= c[SLICES]:
        block = line // c[SLICES]
        inside = line - block * c[SLICES]
        c[BLOCK] = line - inside
        c[BLOCK_SLICE] = turn_of(pointer_of(c[SLICE_HASH]), block)
        c[BLOCK_SET] = place_of(pointer_of(c[SET_HASH]), block, c[SETS])
    return int(c[BLOCK_SET] * c[SLICES] + turned(inside, c[BLOCK_SLICE], c[SLICES]))


@inlined
def _set_at(c: Row, number: int) -> Row:
    return row_at(pointer_of(c[SET_WORDS]), number * c[WAYS] * WAY_WORDS)


@inlined
def _oldest(c: Row, place: int) -> int:
    """Return the way of a set that was used longest ago."""
    bit = place << c[OLDEST_SHIFT]
    return int(pointer_of(c[OLDEST])[bit >> 6] >> (bit & 63) & ((1 << (1 << c[OLDEST_SHIFT])) - 1))


@inlined
def _make_oldest(c: Row, place: int, way: int) -> None:
    bit = place << c[OLDEST_SHIFT]
    pointer_of(c[OLDEST])[bit >> 6] ^= (way ^ _oldest(c, place)) << (bit & 63)


@inlined
def _way_at(here: Row, way: int) -> Row:
    return row_at(here, way * WAY_WORDS)


@inlined
def _may_be_held(c: Row, line: int) -> bool:
    """Return whether a line may have a way of its set."""
    return bool(line >= c[NOTED] or (pointer_of(c[HELD])[line >> 6] >> (line & 63)) & 1 != 0)


@inlined
def _find(c: Row, place: int, line: int) -> int:
    """Return the way of a line in its set, or -1."""
    if _may_be_held(c, line):
        here = _set_at(c, place)
        for way in range(c[WAYS]):
            if _way_at(here, way)[0] & LINE_MASK == line + 1:
                return way
    return -1


@inlined
def _miss_at(c: Row, miss: int) -> Row:
    return row_at(pointer_of(c[MISS_ROWS]), miss * (FETCHES + c[SECTORS]))


@inlined
def _pending(c: Row, word: int) -> int:
    """Return the bursts of a line that are on the way, by its way's first word; its last miss may be another's now."""
    miss = word >> MISS_SHIFT
    return int(_miss_at(c, miss)[PENDING] if pointer_of(c[OWNERS])[miss] == word & LINE_MASK else 0)


@inlined
def _behind(way: int, ways: int) -> int:
    """Return the way of a set that was used next after another one."""
    return 0 if way + 1 == ways else way + 1


@inlined
def _renew(c: Row, place: int, way: int, word: int, masks: int) -> Row:
    """Make the line in a way of a set the one used last, with these words, which are returned."""
    here, ways, oldest = _set_at(c, place), c[WAYS], _oldest(c, place)
    following = _behind(way, ways)
    if way == oldest:
        oldest = following
        _make_oldest(c, place, oldest)
    while following != oldest:
        row, later = _way_at(here, way), _way_at(here, following)
        row[0], row[1] = later[0], later[1]
        way, following = following, _behind(following, ways)
    row = _way_at(here, way)
    row[0], row[1] = word, masks
    return row


@inlined
def _take(c: Row, runs: Row, count: int, line: int, mask: int) -> int:
    """Put bursts of a line behind `count` runs; return how many there are."""
    while mask != 0:
        skipped = trailing_zeros(mask)
        bursts = trailing_zeros(~(mask >> skipped))
        address = line * c[LINE_BYTES] + skipped * c[BURST_BYTES]
        count = append(runs, count, address, bursts, c[BURST_BYTES])
        mask &= ~(((1 << bursts) - 1) << skipped)
    return count


@inlined
def _ones(mask: int) -> int:
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@inlined
def _note(c: Row, gone: int, line: int) -> None:
    """Note that a line has the way that another one had; -1 for none."""
    held = pointer_of(c[HELD])
    if 0 <= gone < c[NOTED]:
        held[gone >> 6] &= ~(1 << (gone & 63))
    if line < c[NOTED]:
        held[line >> 6] |= 1 << (line & 63)


@inlined
def _vacate(c: Row, place: int, line: int) -> int:
    """Return a way of a set for a line, after writing back the dirty bursts of that way's line; -1 if all wait."""
    here, oldest = _set_at(c, place), _oldest(c, place)
    way = oldest
    while _pending(c, _way_at(here, way)[0]) != 0:
        way = _behind(way, c[WAYS])
        if way == oldest:
            return -1
    row = _way_at(here, way)
    gone, dirty = (row[0] & LINE_MASK) - 1, (row[1] >> DIRTY_SHIFT) & MASK
    if dirty != 0:
        c[EVICTED] = _take(c, pointer_of(c[EVICTED_RUNS]), c[EVICTED], gone, dirty)
        c[EVICTED_BURSTS] += _ones(dirty)
        c[ALL_EVICTED] += _ones(dirty)
    _note(c, gone, line)
    return int(way)


@inlined
def _new_miss(c: Row, line: int) -> int:
    """Return a free miss for a line."""
    miss = c[FREE_MISS]
    if miss == NONE:
        miss = c[USED_MISSES]
        c[USED_MISSES] += 1
    else:
        c[FREE_MISS] = _miss_at(c, miss)[NEXT]
    c[OUTSTANDING] += 1
    pointer_of(c[OWNERS])[miss] = line + 1
    return int(miss)


@inlined
def _load(c: Row, way: Row, line: int, touched: int, pending: int, fetch: int) -> None:
    """Count hits, merges and misses of bursts of a line, by the words of its way; ask for the sectors missing."""
    masks = way[1]
    valid = masks & (masks >> DIRTY_SHIFT | ~pending) & MASK  # what is stored while it is on the way is here
    merged, missing = touched & pending & ~valid, touched & ~masks
    c[HITS] += _ones(touched & valid)
    if merged | missing == 0:
        return
    c[MERGED] += _ones(merged)
    c[MISSES] += _ones(missing)
    if pending == 0:
        miss = _new_miss(c, line)
        way[0] = miss << MISS_SHIFT | line + 1
    else:
        miss = way[0] >> MISS_SHIFT
    row, awaited = _miss_at(c, miss), pointer_of(c[AWAITED_FETCHES])
    asked, sector = 0, (1 << c[SECTOR_BURSTS]) - 1
    for number in range(FETCHES, FETCHES + c[SECTORS]):
        if merged & sector and row[number] != fetch:
            awaited[c[AWAITED]] = row[number]
            c[AWAITED] += 1
        if missing & sector:
            asked |= sector & ~masks
            row[number] = fetch
        sector <<= c[SECTOR_BURSTS]
    if asked == 0:
        return
    row[PENDING] = pending | asked
    way[1] = masks | asked
    pair = row_at(pointer_of(c[FILLED_PAIRS]), 2 * c[FILLED])
    pair[0], pair[1] = miss, asked
    c[FILLED] += 1
    c[FETCHED] = _take(c, pointer_of(c[FETCHED_RUNS]), c[FETCHED], line, asked)
    c[FETCHED_BURSTS] += _ones(asked)
    c[ALL_FETCHED] += _ones(asked)


@inlined
def _load_new(c: Row, first: int, lines: int, fetch: int) -> int:
    """Ask for up to so many whole lines, while none has a way and each takes that of a clean one; return for how many.

    It does what `_find`, `_vacate`, `_renew` and `_load` do with such lines, which are what streams consist of.
    """
    everything, filled = (1 << c[LINE_BURSTS]) - 1, pointer_of(c[FILLED_PAIRS])
    stop = min(first + lines, first + c[MSHRS] - c[OUTSTANDING], c[NOTED])
    line = first
    while line < stop and not _may_be_held(c, line):
        place = _set_of(c, line)
        way = _oldest(c, place)
        row = _way_at(_set_at(c, place), way)
        if row[1] >> DIRTY_SHIFT != 0 or _pending(c, row[0]) != 0:
            break
        _note(c, (row[0] & LINE_MASK) - 1, line)
        _make_oldest(c, place, _behind(way, c[WAYS]))
        miss = _new_miss(c, line)
        row[0], row[1] = miss << MISS_SHIFT | line + 1, everything
        outstanding, pair = _miss_at(c, miss), row_at(filled, 2 * (c[FILLED] + line - first))
        outstanding[PENDING] = everything
        for sector in range(FETCHES, FETCHES + c[SECTORS]):
            outstanding[sector] = fetch
        pair[0], pair[1] = miss, everything
        line += 1
    if line == first:
        return 0
    bursts = (line - first) * c[LINE_BURSTS]
    runs, begin = pointer_of(c[FETCHED_RUNS]), first * c[LINE_BYTES]
    c[FETCHED] = append(runs, c[FETCHED], begin, bursts, c[BURST_BYTES])
    c[FILLED] += line - first
    c[MISSES] += bursts
    c[FETCHED_BURSTS] += bursts
    c[ALL_FETCHED] += bursts
    return line - first


@compiled
def expect_request(c: Row, runs: Row, count: int) -> None:
    """Let the processor bring what a request that is looked up soon will read of its sets, or more.

    Sets are more than fit into the processor's nearer caches. Nothing but the time that `access` takes depends on it.
    """
    for number in range(count):
        run = row_at(runs, number * RUN_WORDS)
        last_byte = run[BEGIN] + run[BURSTS] * c[BURST_BYTES] - 1
        first = quotient(run[BEGIN], c[LINE_BYTES], c[LINE_SHIFT])
        last = quotient(last_byte, c[LINE_BYTES], c[LINE_SHIFT])
        for line in range(first, last + 1):
            place = _set_of(c, line)
            here = _set_at(c, place)
            prefetch_to_read(_way_at(here, _oldest(c, place)))
            if _may_be_held(c, line):
                for word in range(0, c[WAYS] * WAY_WORDS, PROCESSOR_LINE_WORDS):
                    prefetch_to_read(row_at(here, word))


@compiled
def is_crowded(c: Row, bursts: int) -> bool:
    """Return whether a load of so many bursts must wait at the cache's entry, because too few misses are free for it.

    Assumed, without a source: a load enters as a whole or not at all. It is taken to need as many misses as its bursts
    fill lines, whether they would hit or not, or half of all where that is more; bursts that lie scattered over more
    lines may still stop half way, in `access`. Requests enter in order, so what comes behind waits with it, hits and
    stores too. Without the rule a load would send its first misses as soon as one is free: the rule changes times and
    the order of fetches of a machine whose misses run out, and nothing where they do not.
    """
    lines = -(-bursts // c[LINE_BURSTS])
    return bool(c[OUTSTANDING] + min(lines, c[MSHRS] // 2) > c[MSHRS])


@compiled
def access(c: Row, runs: Row, count: int, first: int, is_write: bool, fetch: int) -> int:
    """Look up the bursts of a request's runs from number `first` on; return how many are done, all but if it must wait.

    It must wait where no outstanding miss is free, or where every line of a set is outstanding. What is to be read from
    memory belongs to the number `fetch`, which no fetch under way has. Room must have been reserved.
    """
    c[FETCHED] = c[FETCHED_BURSTS] = c[FILLED] = c[EVICTED] = c[EVICTED_BURSTS] = c[AWAITED] = 0
    line_bytes, burst_bytes, passed = c[LINE_BYTES], c[BURST_BYTES], first
    number, skipped = 0, first
    while number < count and skipped >= row_at(runs, number * RUN_WORDS)[BURSTS]:
        skipped -= row_at(runs, number * RUN_WORDS)[BURSTS]
        number += 1
    while number < count:
        run = row_at(runs, number * RUN_WORDS)
        address = run[BEGIN] + skipped * burst_bytes
        line, touched, looked_up = quotient(address, line_bytes, c[LINE_SHIFT]), 0, 0
        if not is_write and address == line * line_bytes:
            lines = _load_new(c, line, quotient(run[BURSTS] - skipped, c[LINE_BURSTS], c[LINE_BURSTS_SHIFT]), fetch)
            skipped, passed = skipped + lines * c[LINE_BURSTS], passed + lines * c[LINE_BURSTS]
            if skipped == run[BURSTS]:
                number, skipped = number + 1, 0
            if lines != 0:
                continue
        while number < count:  # what follows in the same line is looked up with it, until a burst comes again
            run = row_at(runs, number * RUN_WORDS)
            within = run[BEGIN] + skipped * burst_bytes - line * line_bytes
            if within < 0 or within >= line_bytes:
                break
            bit = quotient(within, burst_bytes, c[BURST_SHIFT])
            bursts = min(run[BURSTS] - skipped, c[LINE_BURSTS] - bit)
            mask = ((1 << bursts) - 1) << bit
            if touched & mask != 0:
                bursts = trailing_zeros(touched & mask) - bit
                if bursts == 0:
                    break
                mask = ((1 << bursts) - 1) << bit
            touched, looked_up, skipped = touched | mask, looked_up + bursts, skipped + bursts
            if skipped == run[BURSTS]:
                number, skipped = number + 1, 0
        place = _set_of(c, line)
        way, pending, word, masks = _find(c, place, line), 0, line + 1, 0
        if way >= 0:
            row = _way_at(_set_at(c, place), way)
            word, masks = row[0], row[1]
            pending = _pending(c, word)
        if not is_write and pending == 0 and touched & ~masks and c[OUTSTANDING] >= c[MSHRS]:
            return int(passed)
        if way < 0:
            way = _vacate(c, place, line)
            if way < 0:
                return int(passed)
        if is_write:
            masks |= touched | touched << DIRTY_SHIFT
            c[STORED] += looked_up
        row = _renew(c, place, way, word, masks)
        if not is_write:
            _load(c, row, line, touched, pending, fetch)
        passed += looked_up
    return int(passed)


@compiled
def fill(c: Row, filled: Row, lines: int) -> None:
    """Make valid what a fetch brought: `lines` pairs (miss, mask)."""
    for i in range(lines):
        miss = filled[2 * i]
        row = _miss_at(c, miss)
        row[PENDING] &= ~filled[2 * i + 1]
        if row[PENDING] == 0:
            pointer_of(c[OWNERS])[miss] = 0
            row[NEXT], c[FREE_MISS] = c[FREE_MISS], miss
            c[OUTSTANDING] -= 1


@compiled
def access_of(scalars: Array, runs: Array, count: int, is_write: bool, fetch: int) -> int:
    """Do what `access` does, from Python."""
    return int(access(pointer(scalars), pointer(runs), count, 0, is_write, fetch))


@compiled
def fill_of(scalars: Array, filled: Array, lines: int) -> None:
    """Do what `fill` does, from Python."""
    fill(pointer(scalars), pointer(filled), lines)


@compiled
def hold(scalars: Array, first: int, stop: int) -> None:
    """Put the clean bursts of these numbers into the cache, least recently used first; of their lines no others."""
    c = pointer(scalars)
    bursts = c[LINE_BURSTS]
    for line in range(first // bursts, -(-stop // bursts)):
        place = _set_of(c, line)
        way, masks = _find(c, place, line), 0
        if way < 0:
            way = _vacate(c, place, line)
            c[EVICTED] = c[EVICTED_BURSTS] = c[ALL_EVICTED] = 0  # was written before the run begins
        else:
            masks = _way_at(_set_at(c, place), way)[1]
        begin, end = max(first - line * bursts, 0), min(stop - line * bursts, bursts)
        _renew(c, place, way, line + 1, masks | (1 << end) - (1 << begin))


@compiled
def age(scalars: Array, first: int, stored_lines: int) -> None:
    """Fill an empty cache with the lines from number `first` on, least recently used first.

    Of every RUN lines the first `stored_lines` are dirty. `first` is a multiple of slices x sets, so that as many lines
    take one way of each set.
    """
    c = pointer(scalars)
    block = c[SLICES] * c[SETS]
    everything = (1 << c[LINE_BURSTS]) - 1
    for way in range(c[WAYS]):
        for line in range(first + way * block, first + (way + 1) * block):
            row = _way_at(_set_at(c, _set_of(c, line)), way)
            _note(c, -1, line)
            row[0], row[1] = line + 1, everything | (everything if line % RUN < stored_lines else 0) << DIRTY_SHIFT
