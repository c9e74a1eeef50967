"""The bytes that cross one level of the memory hierarchy, for every level in the same words."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class LevelTraffic:
    """Bytes, in whole bursts. `asked` by the level above = loads (hit + missed + merged) + `stored`.

    A merged byte waited for what another request had already asked for. `fetched` came from the level below and
    `written_back` went there; `dirty` bytes are still to go when the run ends. In DRAM, hits and misses are those of
    open rows, writes among them. In the network, hits are loads and stores that stayed beside their core.
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
