"""The compiled inside of the memory side: what becomes of requests from their arrival to their answer.

A request that has crossed the network arrives at the shared cache, or at main memory where there is no cache. From
then until its data is there, all that happens to it happens here, in order of time: look-ups, fetches, waiting for
fetches of others and for free misses, write-backs, and the way through the cache's slices. `hwmodel.memory_side` hands
requests in, lets the DRAM channels go ahead when `run` asks for it, and takes the answers out; until then no event of
a core takes part.

Requests, fetches and waiters are rows of pools; `order` says which of two things of one time comes first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hwmodel import cache_lookup as cached
from hwmodel.cache_lookup import access, expect_request, fill, is_crowded
from hwmodel.compiled import compiled, inlined
from hwmodel.intrinsics import Row, pointer, pointer_of, row_at
from hwmodel.main_memory import BURSTS, FIRST, ORDER, SEND_FIELDS, TICK, WHOSE
from hwmodel.main_memory import IS_WRITE as SEND_IS_WRITE
from hwmodel.main_memory import STOP as SEND_STOP
from hwmodel.runs import RUN_WORDS, Array, copy, gather, tie
from hwmodel.slices import serve_runs

NONE = -1
NEVER = 2**62
STEP, DELIVER, ADVANCE, FULL = range(4)  # why `run` returns

# REACTION_FS: from an answer of main memory to what it sends there. SAFE_FS: no completion that DRAM has not reported
# can be earlier. LIMIT_FS: how far DRAM is to advance. BLOCKED_FIRST, BLOCKED_LAST: waiting for a free miss. QUIET:
# somebody waits until no write-back is under way. RETRIES: at this time those that wait for a free miss are to be
# looked up again; NONE at no time. WIDTH: bursts of a request, at most; the ROOM of tables in rows. Then addresses: of
# the scalars of cache, its slices and SRAM, and of the tables named below.
(
    HAS_CACHE, HAS_DRAM, LAST_LEG_FS, REACTION_FS, BACK_FS, LOOKAHEAD_FS, SRAM_FS, SAFE_FS, LIMIT_FS, IN_DRAM,
    SUBMITTED, ARRIVALS, DONE, ANSWERS, SENDS, SENT, BLOCKED_FIRST, BLOCKED_LAST, FREE_FETCH, FREE_WAITER,
    WAITERS_LEFT, WRITE_BACKS, QUIET, RETRIES, LINE_BURSTS, WIDTH, SENDS_ROOM, SENT_ROOM, DONE_ROOM,
    CACHE, SLICES, SRAM,
    ARRIVAL_HEAP, DONE_HEAP, TRIP_ROWS, TRIP_RUNS, FETCH_ROWS, FILLED_PAIRS, WAITER_ROWS, ANSWER_ROWS, SEND_ROWS,
    SENT_RUNS,
) = range(42)  # fmt: skip
SCALARS = SENT_RUNS + 1
STOP, RUNS, LOOKED_UP, MISSING, IS_WRITE, BEHIND, TRIP_FIELDS = range(7)  # of a trip; its bursts are STOP
FIRST_WAITER, LAST_WAITER, LINES, NEXT_FREE, FETCH_FIELDS = range(5)  # of a fetch
WHO, NEXT, WAITER_FIELDS = range(3)  # of a waiter
TIME_FS, PLACE, WHAT, HEAP_FIELDS = range(4)  # of an entry of a heap
ANSWER_FIELDS = 3


class Trips(NamedTuple):
    """The tables on which the compiled functions work, by way of the scalars; see `tied`."""

    scalars: Array
    arrivals: Array  # a heap of (time, order, trip)
    done: Array  # left main memory: a heap of (time, order of submission, whose)
    trips: Array
    runs: Array  # [trip, run]
    fetches: Array
    filled: Array  # [fetch, line, (miss, mask)], see `cache.fill`
    waiters: Array  # of fetches, linked
    answers: Array  # (trip, when its data was there, when it had passed the cache); NONE for `QUIET`
    sends: Array  # to DRAM, see `main_memory`; in place of the tick the time of arrival
    sent: Array  # their runs


def tied(t: Trips) -> Trips:
    """Return the tables after noting in the scalars where they are and what they have room for."""
    t.scalars[[WIDTH, SENDS_ROOM, SENT_ROOM, DONE_ROOM]] = t.runs.shape[1], len(t.sends), len(t.sent), len(t.done)
    tie(t.scalars, ARRIVAL_HEAP, *t[1:])
    return t


def trips_of(line_bursts: int) -> Trips:
    """Return pools without a free row, for requests of no burst; of a burst a whole line may be fetched."""
    scalars = np.zeros(SCALARS, np.int64)
    scalars[[BLOCKED_FIRST, FREE_FETCH, FREE_WAITER, RETRIES]] = NONE
    scalars[LINE_BURSTS] = line_bursts
    rows = {"arrivals": (HEAP_FIELDS,), "done": (HEAP_FIELDS,), "trips": (TRIP_FIELDS,), "runs": (0, RUN_WORDS)}
    rows |= {"fetches": (FETCH_FIELDS,), "filled": (0, 2), "waiters": (WAITER_FIELDS,), "sent": (RUN_WORDS,)}
    pools = {name: np.zeros((0, *row), np.int64) for name, row in rows.items()}
    sends, answers = np.zeros((256, SEND_FIELDS), np.int64), np.zeros((1, ANSWER_FIELDS), np.int64)
    return Trips(scalars=scalars, sends=sends, answers=answers, **pools)


def with_width(t: Trips, bursts: int) -> Trips:
    """Return the pools with room for requests of so many bursts."""
    more = ((0, 0), (0, bursts - t.runs.shape[1]), (0, 0))
    sent = _longer(t.sent, 64 * bursts * int(t.scalars[LINE_BURSTS]))
    return tied(t._replace(runs=np.pad(t.runs, more), filled=np.pad(t.filled, more), sent=sent))


def with_trips(t: Trips, more: int) -> Trips:
    """Return the pools with so many more trips."""
    names = ("arrivals", "trips", "runs", "answers")
    return tied(t._replace(**{name: _longer(getattr(t, name), more) for name in names}))


def with_room(t: Trips) -> Trips:
    """Return the pools with room for whatever may happen next, once all sends have been taken."""
    scalars, waiters = t.scalars, len(t.waiters)
    if scalars[FREE_FETCH] == NONE:
        fetches = len(t.fetches)
        t = t._replace(fetches=_longer(t.fetches, fetches + 64), filled=_longer(t.filled, fetches + 64))
        t.fetches[fetches:, NEXT_FREE] = [*range(fetches + 1, len(t.fetches)), NONE]
        scalars[FREE_FETCH] = fetches
    if scalars[WAITERS_LEFT] <= t.runs.shape[1]:
        t = t._replace(waiters=_longer(t.waiters, waiters + 2 * t.runs.shape[1]))
        t.waiters[waiters:, NEXT] = [*range(waiters + 1, len(t.waiters)), scalars[FREE_WAITER]]
        scalars[FREE_WAITER] = waiters
        scalars[WAITERS_LEFT] += len(t.waiters) - waiters
    if scalars[DONE] + scalars[IN_DRAM] + 2 > len(t.done):
        t = t._replace(done=_longer(t.done, len(t.done) + 64))
    return tied(t)


def _longer(array: Array, rows: int) -> Array:
    return np.pad(array, [(0, rows), *[(0, 0)] * (array.ndim - 1)])


@inlined
def _is_before(entry: Row, time_fs: int, order: int) -> bool:
    return bool(entry[TIME_FS] < time_fs or (entry[TIME_FS] == time_fs and entry[PLACE] < order))


@inlined
def _entry(heap: Row, place: int) -> Row:
    return row_at(heap, place * HEAP_FIELDS)


@inlined
def _put(entry: Row, time_fs: int, order: int, what: int) -> None:
    entry[TIME_FS], entry[PLACE], entry[WHAT] = time_fs, order, what


@inlined
def _move(to: Row, entry: Row) -> None:
    _put(to, entry[TIME_FS], entry[PLACE], entry[WHAT])


@compiled
def _push(heap: Row, count: int, time_fs: int, order: int, what: int) -> None:
    """Add an entry to a heap of `count`, sorted by time and order."""
    at = count
    while at > 0:
        above = _entry(heap, (at - 1) >> 1)
        if _is_before(above, time_fs, order):
            break
        _move(_entry(heap, at), above)
        at = (at - 1) >> 1
    _put(_entry(heap, at), time_fs, order, what)


@compiled
def _pop(heap: Row, count: int) -> int:
    """Remove the first entry of a heap of `count`; return what it is."""
    first, last = heap[WHAT], count - 1
    moved = _entry(heap, last)
    at, below = 0, 1
    while below < last:
        entry = _entry(heap, below)
        if below + 1 < last and _is_before(_entry(heap, below + 1), entry[TIME_FS], entry[PLACE]):
            below += 1
            entry = _entry(heap, below)
        if not _is_before(entry, moved[TIME_FS], moved[PLACE]):
            break
        _move(_entry(heap, at), entry)
        at, below = below, 2 * below + 1
    _move(_entry(heap, at), moved)
    return int(first)


@inlined
def trip_at(t: Row, trip: int) -> Row:
    """Return the row of a trip."""
    return row_at(pointer_of(t[TRIP_ROWS]), trip * TRIP_FIELDS)


@inlined
def _runs_at(t: Row, trip: int) -> Row:
    return row_at(pointer_of(t[TRIP_RUNS]), trip * t[WIDTH] * RUN_WORDS)


@inlined
def answer_at(t: Row, number: int) -> Row:
    """Return an answer."""
    return row_at(pointer_of(t[ANSWER_ROWS]), number * ANSWER_FIELDS)


@compiled
def arrive(t: Row, trip: int, runs: Row, count: int, bursts: int, is_write: bool, time_fs: int, order: int) -> None:
    """Let the request for the bursts of `count` runs arrive at a time, under the number of a free trip."""
    here = trip_at(t, trip)
    copy(_runs_at(t, trip), runs, count)
    here[STOP], here[RUNS], here[IS_WRITE] = bursts, count, 1 if is_write else 0
    here[LOOKED_UP] = here[MISSING] = 0
    _push(pointer_of(t[ARRIVAL_HEAP]), t[ARRIVALS], time_fs, order, trip)
    t[ARRIVALS] += 1


@compiled
def enter(
    scalars: Array, trip: int, asked: Array, room: Array, bounds: tuple[int, int, int], is_write: bool, time_fs: int,
    order: int,
) -> None:  # fmt: skip
    """Let the request for asked[first:stop] arrive, bursts as long as the third of the bounds; `room` for its runs."""
    first, stop, burst_bytes = bounds
    count = gather(asked, first, stop, burst_bytes, room)
    arrive(pointer(scalars), trip, pointer(room), count, stop - first, is_write, time_fs, order)


@compiled
def note(scalars: Array, submissions: Array, numbers: Array, times_fs: Array) -> None:
    """Note when DRAM has done requests: submissions[number] = (order of submission, whose)."""
    t = pointer(scalars)
    for i in range(len(numbers)):
        number = numbers[i]
        _push(pointer_of(t[DONE_HEAP]), t[DONE], times_fs[i], submissions[number, 0], submissions[number, 1])
        t[DONE] += 1
    t[IN_DRAM] -= len(numbers)


@compiled
def _to_memory(t: Row, now_fs: int, whose: int, is_write: int, runs: Row, count: int, bursts: int) -> None:
    """Send `count` runs on the last leg to main memory: of a trip, of a fetch, or written back (NONE)."""
    there_fs = now_fs + t[LAST_LEG_FS]
    if t[HAS_DRAM]:
        if t[IN_DRAM] == 0:
            t[SAFE_FS] = max(t[SAFE_FS], there_fs + t[LOOKAHEAD_FS])
        t[IN_DRAM] += 1
        send, first = row_at(pointer_of(t[SEND_ROWS]), t[SENDS] * SEND_FIELDS), t[SENT]
        send[ORDER], send[WHOSE], send[SEND_IS_WRITE], send[BURSTS] = t[SUBMITTED], whose, is_write, bursts
        send[FIRST], send[SEND_STOP], send[TICK] = first, first + count, there_fs
        copy(row_at(pointer_of(t[SENT_RUNS]), first * RUN_WORDS), runs, count)
        t[SENDS] += 1
        t[SENT] += count
    else:
        done_fs = serve_runs(pointer_of(t[SRAM]), runs, count, there_fs) + t[SRAM_FS]
        _push(pointer_of(t[DONE_HEAP]), t[DONE], done_fs, t[SUBMITTED], whose)
        t[DONE] += 1
    t[SUBMITTED] += 1


@inlined
def _answer(t: Row, trip: int, came_fs: int, served_fs: int) -> None:
    answer = answer_at(t, t[ANSWERS])
    answer[0], answer[1], answer[2] = trip, came_fs, served_fs
    t[ANSWERS] += 1


@compiled
def _serve(t: Row, now_fs: int, trip: int) -> None:
    """Answer a trip whose data is there, or its place for data: through the slices of the cache, if there is one."""
    served_fs = now_fs
    if t[HAS_CACHE]:
        served_fs = serve_runs(pointer_of(t[SLICES]), _runs_at(t, trip), trip_at(t, trip)[RUNS], now_fs)
    _answer(t, trip, now_fs, served_fs)


@inlined
def _fetch_at(t: Row, fetch: int) -> Row:
    return row_at(pointer_of(t[FETCH_ROWS]), fetch * FETCH_FIELDS)


@inlined
def _filled_at(t: Row, fetch: int) -> Row:
    return row_at(pointer_of(t[FILLED_PAIRS]), fetch * t[WIDTH] * 2)


@inlined
def _waiter_at(t: Row, waiter: int) -> Row:
    return row_at(pointer_of(t[WAITER_ROWS]), waiter * WAITER_FIELDS)


@compiled
def _wait(t: Row, fetch: int, trip: int) -> None:
    """Let a trip wait for a fetch; once is enough, where it is the last one to come."""
    row = _fetch_at(t, fetch)
    last = row[LAST_WAITER]
    if last != NONE and _waiter_at(t, last)[WHO] == trip:
        return
    waiter = t[FREE_WAITER]
    new = _waiter_at(t, waiter)
    t[FREE_WAITER] = new[NEXT]
    t[WAITERS_LEFT] -= 1
    new[WHO], new[NEXT] = trip, NONE
    if last == NONE:
        row[FIRST_WAITER] = waiter
    else:
        _waiter_at(t, last)[NEXT] = waiter
    row[LAST_WAITER] = waiter
    trip_at(t, trip)[MISSING] += 1


@compiled
def _look_up(t: Row, now_fs: int, trip: int) -> bool:
    """Look a request up and send what it needs to memory; return False where it has to wait for free misses."""
    c, here = pointer_of(t[CACHE]), trip_at(t, trip)
    stop, is_write, fetch = here[STOP], here[IS_WRITE] != 0, t[FREE_FETCH]
    if not is_write and is_crowded(c, stop - here[LOOKED_UP]):
        return False
    here[LOOKED_UP] = access(c, _runs_at(t, trip), here[RUNS], here[LOOKED_UP], is_write, fetch)
    if c[cached.EVICTED]:
        t[WRITE_BACKS] += 1
        evicted = pointer_of(c[cached.EVICTED_RUNS])
        _to_memory(t, now_fs, NONE, 1, evicted, c[cached.EVICTED], c[cached.EVICTED_BURSTS])
    if c[cached.FETCHED]:
        row, lines = _fetch_at(t, fetch), c[cached.FILLED]
        t[FREE_FETCH] = row[NEXT_FREE]
        row[FIRST_WAITER] = row[LAST_WAITER] = NONE
        row[LINES] = lines
        copy(_filled_at(t, fetch), pointer_of(c[cached.FILLED_PAIRS]), lines)  # pairs, as runs are
        fetched = pointer_of(c[cached.FETCHED_RUNS])
        _to_memory(t, now_fs, fetch, 0, fetched, c[cached.FETCHED], c[cached.FETCHED_BURSTS])
        _wait(t, fetch, trip)
    for i in range(c[cached.AWAITED]):
        _wait(t, pointer_of(c[cached.AWAITED_FETCHES])[i], trip)
    if here[LOOKED_UP] < stop:
        return False
    if here[MISSING] == 0:
        _serve(t, now_fs, trip)
    return True


@compiled
def _fill(t: Row, now_fs: int, fetch: int) -> None:
    """A fetch has come: serve who waited only for it."""
    row = _fetch_at(t, fetch)
    fill(pointer_of(t[CACHE]), _filled_at(t, fetch), row[LINES])
    waiter = row[FIRST_WAITER]
    while waiter != NONE:
        who = _waiter_at(t, waiter)
        here = trip_at(t, who[WHO])
        here[MISSING] -= 1
        if here[MISSING] == 0 and here[LOOKED_UP] == here[STOP]:
            _serve(t, now_fs, who[WHO])
        following = who[NEXT]
        who[NEXT], t[FREE_WAITER] = t[FREE_WAITER], waiter
        t[WAITERS_LEFT] += 1
        waiter = following
    row[NEXT_FREE], t[FREE_FETCH] = t[FREE_FETCH], fetch


@compiled
def _fall_quiet(t: Row, now_fs: int) -> None:
    """A write-back is done: if it was the last one, answer who waits for that."""
    t[WRITE_BACKS] -= 1
    if t[QUIET] and t[WRITE_BACKS] == 0:
        t[QUIET] = 0
        _answer(t, NONE, now_fs, now_fs)


@compiled
def _line_up(t: Row, now_fs: int, trip: int) -> None:
    """Let a trip come to the cache, behind those that wait for free misses."""
    trip_at(t, trip)[BEHIND] = NONE
    if t[BLOCKED_FIRST] == NONE:
        t[BLOCKED_FIRST], t[RETRIES] = trip, now_fs
    else:
        trip_at(t, t[BLOCKED_LAST])[BEHIND] = trip
    t[BLOCKED_LAST] = trip


@inlined
def _expect_next(t: Row) -> None:
    """Let the processor bring what the look-up of the next request will read."""
    following = t[BLOCKED_FIRST]
    if following == NONE and t[ARRIVALS]:
        following = pointer_of(t[ARRIVAL_HEAP])[WHAT]
    if following != NONE:
        expect_request(pointer_of(t[CACHE]), _runs_at(t, following), trip_at(t, following)[RUNS])


@inlined
def _is_full(t: Row) -> bool:
    """Return whether the next event may need more room than there is."""
    if t[HAS_CACHE] and (t[FREE_FETCH] == NONE or t[WAITERS_LEFT] <= t[WIDTH]):
        return True
    if t[SENDS] + 2 > t[SENDS_ROOM] or t[SENT] > t[SENT_ROOM] // 2:
        return True
    return bool(t[DONE] + t[IN_DRAM] + 2 > t[DONE_ROOM])


@compiled
def _arrived(t: Row, now_fs: int, trip: int) -> None:
    """A request is at the cache, or at main memory."""
    here = trip_at(t, trip)
    if t[HAS_CACHE]:
        _line_up(t, now_fs, trip)
    else:
        _to_memory(t, now_fs, trip, here[IS_WRITE], _runs_at(t, trip), here[RUNS], here[STOP])


@compiled
def _left_memory(t: Row, now_fs: int, whose: int) -> None:
    """Something has left main memory: a write-back, a fetch, or without a cache a request."""
    if whose == NONE:
        _fall_quiet(t, now_fs)
    elif t[HAS_CACHE]:
        _fill(t, now_fs, whose)
        t[RETRIES] = now_fs
    else:
        _serve(t, now_fs, whose)


@compiled
def run(t: Row, until_fs: int, until_order: int) -> tuple[int, int, int]:
    """Let happen what happens before an event of somebody else, at `until_fs` in the order `until_order`.

    Returns why it returns, how many answers there are, and a time before which nothing happens here unless a request
    comes. Why: `STEP` when that event is next, `ADVANCE` when DRAM must take the sends and advance to `LIMIT_FS` first,
    `FULL` when it must take the sends and `with_room` is needed, and `DELIVER` for answers to be taken first, as they
    are in any case.
    What leaves memory at the time of another event goes first, in the order of submission. So nothing happens at a time
    at which something may still leave DRAM: a write is done sooner after its command than a read.
    """
    arrivals, done, answers = pointer_of(t[ARRIVAL_HEAP]), pointer_of(t[DONE_HEAP]), pointer_of(t[ANSWER_ROWS])
    while True:
        if _is_full(t):
            return FULL, t[ANSWERS], 0
        if t[RETRIES] != NONE:
            trip = t[BLOCKED_FIRST]
            if trip != NONE and _look_up(t, t[RETRIES], trip):
                t[BLOCKED_FIRST] = trip_at(t, trip)[BEHIND]
                _expect_next(t)
            else:
                t[RETRIES] = NONE
            continue
        if t[ANSWERS] and answers[1] + t[BACK_FS] <= until_fs:
            until_fs, until_order = answers[1] + t[BACK_FS], NEVER  # what the first of them may bring about
        arrival_fs = arrivals[TIME_FS] if t[ARRIVALS] else NEVER
        done_fs = done[TIME_FS] if t[DONE] else NEVER
        upcoming_fs = min(arrival_fs, until_fs)
        if t[IN_DRAM] and min(done_fs, upcoming_fs) >= t[SAFE_FS]:
            t[LIMIT_FS] = min(upcoming_fs, t[SAFE_FS] + t[REACTION_FS]) + t[LAST_LEG_FS]
            return DELIVER if t[ANSWERS] else ADVANCE, t[ANSWERS], 0
        if t[DONE] and done_fs <= upcoming_fs:
            whose = _pop(done, t[DONE])
            t[DONE] -= 1
            _left_memory(t, done_fs, whose)
        elif t[ARRIVALS] and _is_before(arrivals, until_fs, until_order):
            trip = _pop(arrivals, t[ARRIVALS])
            t[ARRIVALS] -= 1
            _arrived(t, arrival_fs, trip)
        else:
            next_fs = min(arrival_fs, done_fs)
            if t[IN_DRAM]:
                next_fs = min(next_fs, t[SAFE_FS])
            return STEP, t[ANSWERS], 0 if t[ANSWERS] else next_fs


@compiled
def run_until(scalars: Array, until_fs: int, until_order: int) -> tuple[int, int, int]:
    """Do what `run` does, from Python."""
    found: tuple[int, int, int] = run(pointer(scalars), until_fs, until_order)
    return found
