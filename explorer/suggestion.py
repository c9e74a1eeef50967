"""What is said of a kernel's default knobs where those that it suggests may be clearly faster.

Nothing is simulated. The lower bounds of both programs are compared; what the suggested one takes is for a run to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from explorer.evaluate import bound_us
from explorer.programs import kernel_of, key, suggested, taken_instead
from explorer.query import Query
from explorer.text.tables import number

if TYPE_CHECKING:
    from hwmodel.result import Result

CLEARLY = 1.25  # assumed: bounds that differ less may lie by times in the other order
MOST_BYTES = 1 << 30  # assumed: bounds of programs that read more take longer than a line is worth


def suggestion(query: Query, result: Result) -> str:
    """Return in a line which knobs `--suggest` takes instead of the defaults of a query that has been run.

    Empty where knobs are set, where the kernel suggests none or the same, and where bounds do not tell that they may be
    clearly faster.
    """
    if query.knobs or kernel_of(query.kernel).candidates is None or result.hbm_read_bytes > MOST_BYTES:
        return ""
    least = float(result.metrics()["bound_us"])
    try:
        other = suggested(query)
        if key(other) == key(query):
            return ""
        other_least = bound_us(other)
    except ValueError:  # it cannot run
        return ""
    if least < CLEARLY * other_least:
        return ""
    here, there = (f"(lower bound {number('bound_us', value)})" for value in (least, other_least))
    return f"default knobs {here}; --suggest takes {taken_instead(query, other)} {there}"
