"""The bytes that cross one level of the memory hierarchy, for every level in the same words."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class LevelTraffic:
    """Bytes, in whole bursts. What the level above `asked` for is told apart, in every level of its own kind:

    - shared cache: loads that `hit`, `missed` or `merged` with what another request had already asked for, and what was
      `stored`. `fetched` came from the level below, `written_back` went there, and `dirty` bytes are still to go when
      the run ends.
    - network: loads and stores that stayed beside their core (`hit`), loads that `merged` with the equal one of another
      core, and what went on (`fetched`).
    - TLB, DRAM and distributed SRAM: loads and stores that hit, missed or merged. In DRAM hits are those of open rows;
      `stored` is the part of them that are writes.
    """

    asked: int = 0
    hit: int = 0
    missed: int = 0
    merged: int = 0
    stored: int = 0
    fetched: int = 0
    written_back: int = 0
    dirty: int = 0

    def metrics(self) -> dict[str, int]:
        """Return the bytes by name, as `NAME_bytes`."""
        return {f"{name}_bytes": size for name, size in asdict(self).items()}
