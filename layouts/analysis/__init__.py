"""What a layout costs, asked without running anything: the front door of the analyses.

* `bank_conflicts`, `bank_conflicts_many`: cycles of an SRAM access (`layouts.analysis.conflicts`)
* `contiguous_runs`, `touched`: runs, alignment, bursts and over-fetch (`layouts.analysis.bursts`)
* `balance`: bursts per channel, bank or row (`layouts.analysis.balance`)
* `is_injective`, `overlap`: whether bytes are shared (`layouts.analysis.overlap`)

All answers are exact, and say by which form they were found where there are several.
"""

from layouts.analysis.balance import Balance, balance
from layouts.analysis.buffer import Buffer
from layouts.analysis.bursts import Runs, Touched, contiguous_runs, touched
from layouts.analysis.conflicts import Access, Banks, Conflicts, bank_conflicts, bank_conflicts_many
from layouts.analysis.overlap import overlap
from layouts.injective import is_injective

__all__ = [
    "Access",
    "Balance",
    "Banks",
    "Buffer",
    "Conflicts",
    "Runs",
    "Touched",
    "balance",
    "bank_conflicts",
    "bank_conflicts_many",
    "contiguous_runs",
    "is_injective",
    "overlap",
    "touched",
]
