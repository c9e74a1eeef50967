"""What one DRAM stack, device or module consists of, and the bytes and address fields that follow from it.

"Stack" is the unit a machine has several of: an HBM stack, a GDDR device, an LPDDR5X package, a DDR5 module. Standards
without pseudo-channels have one per channel; standards without bank groups have one bank in each.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

MAX_COUNT = 1 << 20  # of what a description counts, rows of a bank for one; beyond, a unit or a digit is wrong


@dataclass(frozen=True)
class Organisation:
    """What one stack consists of. `rows` per bank gives the capacity. ValueError for a number that cannot be."""

    channels: int
    pseudo_channels: int  # per channel, sharing its command buses
    stack_ids: int  # rank-like: dies that share the data bus of a pseudo-channel
    bank_groups: int  # per stack ID
    banks_per_group: int
    rows: int
    row_bytes: int
    burst_bytes: int
    width_bits: int  # data pins of a pseudo-channel
    command_buses: int = 2  # 2: row and column commands each have one; 1: they share one

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ValueError(f"organisation.{field.name}: {value!r} must be an integer of at least 1")
        if self.command_buses > 2:
            raise ValueError(f"organisation.command_buses: {self.command_buses} must be 1 or 2")
        if self.row_bytes % self.burst_bytes:
            raise ValueError(
                f"organisation.row_bytes: {self.row_bytes} is no multiple of burst_bytes {self.burst_bytes}"
            )

    @property
    def columns(self) -> int:
        """Bursts per row."""
        return self.row_bytes // self.burst_bytes

    @property
    def banks(self) -> int:
        """Banks per pseudo-channel, over all stack IDs."""
        return self.stack_ids * self.bank_groups * self.banks_per_group

    @property
    def capacity_bytes(self) -> int:
        """Bytes per stack."""
        return self.channels * self.pseudo_channels * self.banks * self.rows * self.row_bytes

    def field_sizes(self) -> dict[str, int]:
        """Return the size of every address field below the stack; `bank` = (stack ID, bank of the group)."""
        return {
            "channel": self.channels,
            "pseudo_channel": self.pseudo_channels,
            "bank_group": self.bank_groups,
            "bank": self.stack_ids * self.banks_per_group,
            "row": self.rows,
            "column": self.columns,
        }
