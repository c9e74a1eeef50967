"""The scratchpad of one core as its four queues share it.

A unit that uses the scratchpad brings work: the time that its wavefronts take where it is alone (`hwmodel.sram_access`
counts them). Among the units that have work left the scratchpad is shared evenly, and what one does not need the others
have: max-min fair and work-conserving, a fluid in place of an arbiter's single cycles. So no work is done sooner than
alone, and all work together takes the sum of its times.

The state moves on only when somebody asks, and there are no events of its own: a unit asks how long its work still
takes, and asks again then. Time is in femtoseconds; work in twelfths of them, so that two, three or four shares are
whole numbers. A share that ends within a femtosecond ends with it.
"""

from __future__ import annotations

from heapq import heappop, heappush

PARTS = 12  # of a femtosecond: least common multiple of 1, 2, 3 and 4 users; the engine is compiled with it


class SharedSram:
    """One core's scratchpad; the users are numbered as the queues are, 0 to 3."""

    def __init__(self) -> None:
        self._now = 0
        self._left = [0] * 4  # work brought and not done, by user
        self._brought = [0] * 4  # since the start
        self._asked = [0] * 4  # also what begins later
        self._later: list[tuple[int, int, int]] = []  # a heap of (start, user, work)

    def ask(self, user: int, start_fs: int, work_fs: int) -> int:
        """Bring work that begins at a time from now on, and not before this user's earlier work; return its number.

        The number is for `left`. A user's own work is done in the order in which it begins.
        """
        work = work_fs * PARTS
        self._asked[user] += work
        if work:
            heappush(self._later, (start_fs, user, work))
        return self._asked[user]

    def left(self, user: int, number: int, now_fs: int) -> int:
        """Return how long the work of that number still takes if nobody else brings any; nought when it is done.

        `now_fs` never goes back, and work of that number has begun.
        """
        self._advance(now_fs)
        needed = self._left[user] - self._brought[user] + number
        if needed <= 0:
            return 0
        left, time = list(self._left), 0
        left[user] = needed
        while left[user]:
            time += _serve(left, needed)  # long enough: one twelfth of work takes at most a third of a femtosecond
        return time

    def _advance(self, now_fs: int) -> None:
        left, later = self._left, self._later
        while True:
            while later and later[0][0] <= self._now:
                _, user, work = heappop(later)
                left[user] += work
                self._brought[user] += work
            if self._now >= now_fs:
                return
            until = later[0][0] if later and later[0][0] < now_fs else now_fs
            self._now += _serve(left, until - self._now)


def _serve(left: list[int], most: int) -> int:
    """Serve those that have work left evenly until one is done or `most` femtoseconds are over; return the time."""
    active = 4 - left.count(0)
    if not active:
        return most
    if active == 1:
        work = max(left)
        time = -(-work // PARTS)
        user = left.index(work)
        if time > most:
            left[user] = work - most * PARTS
            return most
        left[user] = 0
        return time
    time = min(most, -(-min([work for work in left if work]) * active // PARTS))
    share = time * PARTS // active
    for user in range(4):
        if left[user]:
            left[user] = max(0, left[user] - share)
    return time
