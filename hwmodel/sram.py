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

_PARTS = 12  # of a femtosecond: the least common multiple of 1, 2, 3 and 4 users


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
        work = work_fs * _PARTS
        self._asked[user] += work
        if work:
            heappush(self._later, (start_fs, user, work))
        return self._asked[user]

    def left(self, user: int, number: int, now_fs: int) -> int:
        """Return how long the work of that number still takes if nobody else brings any; nought when it is done.

        `now_fs` never goes back, and work of that number has begun.
        """
        self._advance(now_fs)
        needed = self._left[user] - (self._brought[user] - number)
        if needed <= 0:
            return 0
        left, time = list(self._left), 0
        left[user] = needed
        while left[user]:
            step = _next_end(left)
            _serve(left, step)
            time += step
        return time

    def _advance(self, now_fs: int) -> None:
        left, later = self._left, self._later
        while self._now < now_fs or (later and later[0][0] <= self._now):
            while later and later[0][0] <= self._now:
                _, user, work = heappop(later)
                left[user] += work
                self._brought[user] += work
            until = min(now_fs, later[0][0]) if later else now_fs
            if not any(left):
                self._now = max(self._now, until)
                continue
            step = min(until - self._now, _next_end(left))
            _serve(left, step)
            self._now += step


def _next_end(left: list[int]) -> int:
    """Return the time until the first of the users that have work left is done."""
    active = [work for work in left if work]
    return -(-min(active) * len(active) // _PARTS)


def _serve(left: list[int], time: int) -> None:
    """Serve the users that have work left, evenly."""
    share = time * _PARTS // (4 - left.count(0))
    for user, work in enumerate(left):
        left[user] = max(0, work - share)
