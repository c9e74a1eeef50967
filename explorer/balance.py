"""How evenly the channels of a memory carry their load: the numbers below a balance picture.

The slowest channel sets the time: a load that is `imbalance` times the even one needs at least that many times longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Balance:
    """What each pseudo-channel (or channel: `level`) carried, in bytes or in bursts (`unit`)."""

    level: str
    unit: str
    loads: tuple[int, ...]

    @property
    def ideal(self) -> float:
        """The load of each if all carried the same."""
        return sum(self.loads) / len(self.loads) if self.loads else 0.0

    @property
    def imbalance(self) -> float:
        """The highest load over the even one: 1 where all carry the same, 0 without load."""
        return max(self.loads) / self.ideal if sum(self.loads) else 0.0


def balance_of(bank_bursts: NDArray[np.int64]) -> Balance:
    """Return the balance of the bursts counted in [pseudo-channel, bank]."""
    return Balance("pseudo-channel", "bursts", tuple(bank_bursts.sum(axis=1).tolist()))
