"""The compiled inside of the memory side: what becomes of requests from their arrival to their answer.

A request that has crossed the network arrives at the shared cache, or at main memory where there is no cache. From
then until its data is there, all that happens to it happens here, in order of time: look-ups, fetches, waiting for
fetches of others and for free misses, write-backs, and the way through the cache's slices. `hwmodel.memory_side` hands
requests in, lets the DRAM channels go ahead when `run` asks for it, and takes the answers out; until then no event of
a core takes part.

Requests, fetches and waiters are rows of pools; `order` says which of two things of one time comes first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwmodel import cache as cached
from hwmodel.cache import CacheState, access, fill, is_crowded
from hwmodel.compiled import compiled
from hwmodel.main_memory import FIRST, ORDER, SEND_FIELDS, TICK, WHOSE
from hwmodel.main_memory import IS_WRITE as SEND_IS_WRITE
from hwmodel.main_memory import STOP as SEND_STOP
from hwmodel.slices import SlicesState, serve_slices

Array = np.ndarray[Any, Any]

NONE = -1
NEVER = 2**62
STEP, DELIVER, ADVANCE, FULL = range(4)  # why `run` returns

(
    HAS_CACHE,
    HAS_DRAM,
    LAST_LEG_FS,
    REACTION_FS,  # from an answer of main memory to what it sends there
    BACK_FS,
    LOOKAHEAD_FS,
    SRAM_FS,
    SAFE_FS,  # no completion that DRAM has not reported can be earlier
    LIMIT_FS,  # how far DRAM is to advance
    IN_DRAM,
    SUBMITTED,
    ARRIVALS,
    DONE,
    ANSWERS,
    SENDS,
    SENT,
    BLOCKED_FIRST,  # waiting for a free miss
    BLOCKED_LAST,
    FREE_FETCH,
    FREE_WAITER,
    WAITERS_LEFT,
    WRITE_BACKS,
    QUIET,  # somebody waits until no write-back is under way
    RETRIES,  # at this time those that wait for a free miss are to be looked up again; NONE at no time
    LINE_BURSTS,
) = range(25)
SCALARS = LINE_BURSTS + 1
STOP, LOOKED_UP, MISSING, IS_WRITE, BEHIND = range(5)  # of a trip
FIRST_WAITER, LAST_WAITER, LINES, NEXT_FREE = range(4)  # of a fetch
WHO, NEXT = range(2)  # of a waiter


class Trips(NamedTuple):
    """The arrays on which the compiled functions work."""

    scalars: Array
    arrivals: Array  # a heap of (time, order, trip)
    done: Array  # left main memory: a heap of (time, order of submission, whose)
    trips: Array
    bursts: Array  # [trip, place]: addresses
    fetches: Array
    filled: Array  # [fetch, line, (row, mask)], see `cache.fill`
    waiters: Array  # of fetches, linked
    answers: Array  # (trip, when its data was there, when it had passed the cache); NONE for `QUIET`
    sends: Array  # to DRAM, see `main_memory`; in place of the tick the time of arrival
    sent: Array  # their addresses


def trips_of(line_bursts: int) -> Trips:
    """Return pools without a free row, for requests of no burst; of a burst a whole line may be fetched."""
    scalars = np.zeros(SCALARS, np.int64)
    scalars[[BLOCKED_FIRST, FREE_FETCH, FREE_WAITER, RETRIES]] = NONE
    scalars[LINE_BURSTS] = line_bursts
    rows = {"arrivals": (3,), "done": (3,), "trips": (5,), "bursts": (0,), "fetches": (4,), "filled": (0, 2)}
    rows |= {"waiters": (2,), "sent": ()}
    pools = {name: np.zeros((0, *row), np.int64) for name, row in rows.items()}
    return Trips(
        scalars=scalars, sends=np.zeros((256, SEND_FIELDS), np.int64), answers=np.zeros((1, 3), np.int64), **pools
    )


def with_width(t: Trips, bursts: int) -> Trips:
    """Return the pools with room for requests of so many bursts."""
    more = bursts - t.bursts.shape[1]
    wider, filled = np.pad(t.bursts, ((0, 0), (0, more))), np.pad(t.filled, ((0, 0), (0, more), (0, 0)))
    sent = _longer(t.sent, 64 * bursts * int(t.scalars[LINE_BURSTS]))
    return t._replace(bursts=wider, filled=filled, sent=sent)


def with_trips(t: Trips, more: int) -> Trips:
    """Return the pools with so many more trips."""
    names = ("arrivals", "trips", "bursts", "answers")
    return t._replace(**{name: _longer(getattr(t, name), more) for name in names})


def with_room(t: Trips) -> Trips:
    """Return the pools with room for whatever may happen next, once all sends have been taken."""
    scalars, waiters = t.scalars, len(t.waiters)
    if scalars[FREE_FETCH] == NONE:
        fetches = len(t.fetches)
        t = t._replace(fetches=_longer(t.fetches, fetches + 64), filled=_longer(t.filled, fetches + 64))
        t.fetches[fetches:, NEXT_FREE] = [*range(fetches + 1, len(t.fetches)), NONE]
        scalars[FREE_FETCH] = fetches
    if scalars[WAITERS_LEFT] <= t.bursts.shape[1]:
        t = t._replace(waiters=_longer(t.waiters, waiters + 2 * t.bursts.shape[1]))
        t.waiters[waiters:, NEXT] = [*range(waiters + 1, len(t.waiters)), scalars[FREE_WAITER]]
        scalars[FREE_WAITER] = waiters
        scalars[WAITERS_LEFT] += len(t.waiters) - waiters
    if scalars[DONE] + scalars[IN_DRAM] + 2 > len(t.done):
        t = t._replace(done=_longer(t.done, len(t.done) + 64))
    return t


def _longer(array: Array, rows: int) -> Array:
    return np.pad(array, [(0, rows), *[(0, 0)] * (array.ndim - 1)])


@compiled
def _is_before(heap: Array, at: int, time_fs: int, order: int) -> bool:
    return bool(heap[at, 0] < time_fs or (heap[at, 0] == time_fs and heap[at, 1] < order))


@compiled
def _put(heap: Array, at: int, time_fs: int, order: int, what: int) -> None:
    heap[at, 0], heap[at, 1], heap[at, 2] = time_fs, order, what


@compiled
def _push(heap: Array, count: int, time_fs: int, order: int, what: int) -> None:
    """Add an entry to a heap of `count`, sorted by time and order."""
    at = count
    while at > 0:
        above = (at - 1) >> 1
        if _is_before(heap, above, time_fs, order):
            break
        _put(heap, at, heap[above, 0], heap[above, 1], heap[above, 2])
        at = above
    _put(heap, at, time_fs, order, what)


@compiled
def _pop(heap: Array, count: int) -> int:
    """Remove the first entry of a heap of `count`; return what it is."""
    first, last = heap[0, 2], count - 1
    time_fs, order, what = heap[last, 0], heap[last, 1], heap[last, 2]
    at, below = 0, 1
    while below < last:
        if below + 1 < last and _is_before(heap, below + 1, heap[below, 0], heap[below, 1]):
            below += 1
        if not _is_before(heap, below, time_fs, order):
            break
        _put(heap, at, heap[below, 0], heap[below, 1], heap[below, 2])
        at, below = below, 2 * below + 1
    _put(heap, at, time_fs, order, what)
    return int(first)


@compiled
def arrive(
    scalars: Array,
    arrivals: Array,
    trips: Array,
    bursts: Array,
    trip: int,
    asked: Array,
    first: int,
    stop: int,
    is_write: bool,
    time_fs: int,
    order: int,
) -> None:
    """Let the request for asked[first:stop] arrive at a time, under the number of a free trip."""
    for at in range(first, stop):
        bursts[trip, at - first] = asked[at]
    trips[trip, STOP], trips[trip, IS_WRITE] = stop - first, is_write
    trips[trip, LOOKED_UP] = trips[trip, MISSING] = 0
    _push(arrivals, scalars[ARRIVALS], time_fs, order, trip)
    scalars[ARRIVALS] += 1


@compiled
def note(scalars: Array, done: Array, submissions: Array, numbers: Array, times_fs: Array) -> None:
    """Note when DRAM has done requests: submissions[number] = (order of submission, whose)."""
    for i in range(len(numbers)):
        number = numbers[i]
        _push(done, scalars[DONE], times_fs[i], submissions[number, 0], submissions[number, 1])
        scalars[DONE] += 1
    scalars[IN_DRAM] -= len(numbers)


@compiled
def _to_memory(t: Trips, sram: SlicesState, now_fs: int, whose: int, is_write: bool, bursts: Array, stop: int) -> None:
    """Send bursts[:stop] on the last leg to main memory: of a trip, of a fetch, or written back (NONE)."""
    scalars = t.scalars
    there_fs = now_fs + scalars[LAST_LEG_FS]
    if scalars[HAS_DRAM]:
        if scalars[IN_DRAM] == 0:
            scalars[SAFE_FS] = max(scalars[SAFE_FS], there_fs + scalars[LOOKAHEAD_FS])
        scalars[IN_DRAM] += 1
        send, first = t.sends[scalars[SENDS]], scalars[SENT]
        send[ORDER], send[WHOSE], send[SEND_IS_WRITE] = scalars[SUBMITTED], whose, is_write
        send[FIRST], send[SEND_STOP], send[TICK] = first, first + stop, there_fs
        for at in range(stop):
            t.sent[first + at] = bursts[at]
        scalars[SENDS] += 1
        scalars[SENT] += stop
    else:
        done_fs = serve_slices(sram, bursts, 0, stop, there_fs) + scalars[SRAM_FS]
        _push(t.done, scalars[DONE], done_fs, scalars[SUBMITTED], whose)
        scalars[DONE] += 1
    scalars[SUBMITTED] += 1


@compiled
def _serve(t: Trips, slices: SlicesState, now_fs: int, trip: int) -> None:
    """Answer a trip whose data is there, or its place for data: through the slices of the cache, if there is one."""
    scalars, answer = t.scalars, t.answers[t.scalars[ANSWERS]]
    answer[0], answer[1], answer[2] = trip, now_fs, now_fs
    if scalars[HAS_CACHE]:
        answer[2] = serve_slices(slices, t.bursts[trip], 0, t.trips[trip, STOP], now_fs)
    scalars[ANSWERS] += 1


@compiled
def _wait(t: Trips, fetch: int, trip: int) -> None:
    """Let a trip wait for a fetch; once is enough, where it is the last one to come."""
    last = t.fetches[fetch, LAST_WAITER]
    if last != NONE and t.waiters[last, WHO] == trip:
        return
    waiter = t.scalars[FREE_WAITER]
    t.scalars[FREE_WAITER] = t.waiters[waiter, NEXT]
    t.scalars[WAITERS_LEFT] -= 1
    t.waiters[waiter, WHO], t.waiters[waiter, NEXT] = trip, NONE
    if last == NONE:
        t.fetches[fetch, FIRST_WAITER] = waiter
    else:
        t.waiters[last, NEXT] = waiter
    t.fetches[fetch, LAST_WAITER] = waiter
    t.trips[trip, MISSING] += 1


@compiled
def _look_up(t: Trips, c: CacheState, slices: SlicesState, sram: SlicesState, now_fs: int, trip: int) -> bool:
    """Look a request up and send what it needs to memory; return False where it has to wait for free misses."""
    scalars, here, counts = t.scalars, t.trips[trip], c.scalars
    stop, is_write, fetch = here[STOP], here[IS_WRITE] != 0, scalars[FREE_FETCH]
    if not is_write and is_crowded(counts, stop - here[LOOKED_UP]):
        return False
    here[LOOKED_UP] = access(c, t.bursts[trip], here[LOOKED_UP], stop, is_write, fetch)
    if counts[cached.EVICTED]:
        scalars[WRITE_BACKS] += 1
        _to_memory(t, sram, now_fs, NONE, True, c.evicted, counts[cached.EVICTED])
    if counts[cached.FETCHED]:
        scalars[FREE_FETCH] = t.fetches[fetch, NEXT_FREE]
        t.fetches[fetch, FIRST_WAITER] = t.fetches[fetch, LAST_WAITER] = NONE
        t.fetches[fetch, LINES] = counts[cached.FILLED]
        for line in range(counts[cached.FILLED]):
            t.filled[fetch, line, 0], t.filled[fetch, line, 1] = c.filled[line, 0], c.filled[line, 1]
        _to_memory(t, sram, now_fs, fetch, False, c.fetched, counts[cached.FETCHED])
        _wait(t, fetch, trip)
    for i in range(counts[cached.AWAITED]):
        _wait(t, c.awaited[i], trip)
    if here[LOOKED_UP] < stop:
        return False
    if here[MISSING] == 0:
        _serve(t, slices, now_fs, trip)
    return True


@compiled
def _fill(t: Trips, c: CacheState, slices: SlicesState, now_fs: int, fetch: int) -> None:
    """A fetch has come: serve who waited only for it."""
    scalars = t.scalars
    fill(c, t.filled[fetch], t.fetches[fetch, LINES])
    waiter = t.fetches[fetch, FIRST_WAITER]
    while waiter != NONE:
        trip = t.waiters[waiter, WHO]
        t.trips[trip, MISSING] -= 1
        if t.trips[trip, MISSING] == 0 and t.trips[trip, LOOKED_UP] == t.trips[trip, STOP]:
            _serve(t, slices, now_fs, trip)
        following = t.waiters[waiter, NEXT]
        t.waiters[waiter, NEXT] = scalars[FREE_WAITER]
        scalars[FREE_WAITER] = waiter
        scalars[WAITERS_LEFT] += 1
        waiter = following
    t.fetches[fetch, NEXT_FREE] = scalars[FREE_FETCH]
    scalars[FREE_FETCH] = fetch


@compiled
def _fall_quiet(t: Trips, now_fs: int) -> None:
    """A write-back is done: if it was the last one, answer who waits for that."""
    scalars, answer = t.scalars, t.answers[t.scalars[ANSWERS]]
    scalars[WRITE_BACKS] -= 1
    if scalars[QUIET] and scalars[WRITE_BACKS] == 0:
        scalars[QUIET] = 0
        scalars[ANSWERS] += 1
        answer[0], answer[1], answer[2] = NONE, now_fs, now_fs


@compiled
def _line_up(t: Trips, now_fs: int, trip: int) -> None:
    """Let a trip come to the cache, behind those that wait for free misses."""
    scalars = t.scalars
    t.trips[trip, BEHIND] = NONE
    if scalars[BLOCKED_FIRST] == NONE:
        scalars[BLOCKED_FIRST], scalars[RETRIES] = trip, now_fs
    else:
        t.trips[scalars[BLOCKED_LAST], BEHIND] = trip
    scalars[BLOCKED_LAST] = trip


@compiled
def _is_full(t: Trips) -> bool:
    """Return whether the next event may need more room than there is."""
    scalars, most = t.scalars, t.bursts.shape[1]
    if scalars[HAS_CACHE] and (scalars[FREE_FETCH] == NONE or scalars[WAITERS_LEFT] <= most):
        return True
    if scalars[SENDS] + 2 > len(t.sends) or scalars[SENT] > len(t.sent) // 2:
        return True
    return bool(scalars[DONE] + scalars[IN_DRAM] + 2 > len(t.done))


@compiled
def run(parts: tuple[Array, ...], until_fs: int, until_order: int) -> tuple[int, int, int]:
    """Let happen what happens before an event of somebody else, at `until_fs` in the order `until_order`.

    Returns why it returns, how many answers there are, and a time before which nothing happens here unless a request
    comes. Why: `STEP` when that event is next, `ADVANCE` when DRAM must take the sends and advance to `LIMIT_FS` first,
    `FULL` when it must take the sends and `with_room` is needed, and `DELIVER` for answers to be taken first, as they
    are in any case. `parts` are all arrays one after another: plain arrays are passed to compiled code quickest.
    What leaves memory at the time of another event goes first, in the order of submission. So nothing happens at a time
    at which something may still leave DRAM: a write is done sooner after its command than a read.
    """
    t, c = Trips(*parts[:11]), CacheState(*parts[11:17])
    slices, sram = SlicesState(*parts[17:19]), SlicesState(*parts[19:])
    scalars = t.scalars
    while True:
        if _is_full(t):
            return FULL, scalars[ANSWERS], 0
        if scalars[RETRIES] != NONE:
            trip = scalars[BLOCKED_FIRST]
            if trip != NONE and _look_up(t, c, slices, sram, scalars[RETRIES], trip):
                scalars[BLOCKED_FIRST] = t.trips[trip, BEHIND]
            else:
                scalars[RETRIES] = NONE
            continue
        if scalars[ANSWERS] and t.answers[0, 1] + scalars[BACK_FS] <= until_fs:
            until_fs, until_order = t.answers[0, 1] + scalars[BACK_FS], NEVER  # what the first of them may bring about
        arrival_fs = t.arrivals[0, 0] if scalars[ARRIVALS] else NEVER
        done_fs = t.done[0, 0] if scalars[DONE] else NEVER
        upcoming_fs = min(arrival_fs, until_fs)
        if scalars[IN_DRAM] and min(done_fs, upcoming_fs) >= scalars[SAFE_FS]:
            scalars[LIMIT_FS] = min(upcoming_fs, scalars[SAFE_FS] + scalars[REACTION_FS]) + scalars[LAST_LEG_FS]
            return DELIVER if scalars[ANSWERS] else ADVANCE, scalars[ANSWERS], 0
        if scalars[DONE] and done_fs <= upcoming_fs:
            whose = _pop(t.done, scalars[DONE])
            scalars[DONE] -= 1
            if whose == NONE:
                _fall_quiet(t, done_fs)
            elif scalars[HAS_CACHE]:
                _fill(t, c, slices, done_fs, whose)
                scalars[RETRIES] = done_fs
            else:
                _serve(t, slices, done_fs, whose)
        elif scalars[ARRIVALS] and _is_before(t.arrivals, 0, until_fs, until_order):
            trip = _pop(t.arrivals, scalars[ARRIVALS])
            scalars[ARRIVALS] -= 1
            if scalars[HAS_CACHE]:
                _line_up(t, arrival_fs, trip)
            else:
                _to_memory(t, sram, arrival_fs, trip, t.trips[trip, IS_WRITE] != 0, t.bursts[trip], t.trips[trip, STOP])
        else:
            next_fs = min(arrival_fs, done_fs)
            if scalars[IN_DRAM]:
                next_fs = min(next_fs, scalars[SAFE_FS])
            return STEP, scalars[ANSWERS], 0 if scalars[ANSWERS] else next_fs
