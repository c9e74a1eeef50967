"""How large a memory the controller has room for; its kernel is compiled with these numbers.

Apart from `state`, so that a machine is refused before anything is compiled or run.
"""

from __future__ import annotations

from hwmodel.dram.organisation import Organisation
from hwmodel.dram.policy import Policy

# A burst's place: bank of its channel, column, row, channel in one number
BANK_BITS, COLUMN_BITS, ROW_BITS, CHANNEL_BITS = 8, 18, 24, 12
MAX_PCS = 2  # of a channel
MAX_BANKS = 64  # of a pseudo-channel
MAX_QUEUES = 64  # per channel


def check_room(organisation: Organisation, stacks: int, policy: Policy) -> None:
    """Raise ValueError for a memory of so many stacks that there is no room for."""
    if stacks < 1:
        raise ValueError(f"stacks: {stacks} must be at least 1")
    for name in ("banks_per_group", "bank_groups"):
        size = getattr(organisation, name)
        if size < 1 or size & (size - 1):
            raise ValueError(f"organisation.{name}: {size} must be a power of two")
    for name, value, most in (
        ("pseudo_channels", organisation.pseudo_channels, MAX_PCS),
        ("banks", organisation.banks, MAX_BANKS),
    ):
        if not 1 <= value <= most:
            raise ValueError(
                f"organisation: {value} {name} per {'channel' if most == MAX_PCS else 'pseudo-channel'}; "
                f"allowed: 1 .. {most}"
            )
    # a place is one number, and so is an address
    for name, value, bits in (
        ("rows", organisation.rows, ROW_BITS),
        ("columns", organisation.columns, COLUMN_BITS),
        ("channels of all stacks", stacks * organisation.channels, CHANNEL_BITS),
        ("bytes of all stacks", stacks * organisation.capacity_bytes, 62),
    ):
        if value > 1 << bits:
            raise ValueError(f"organisation: {value} {name}; allowed: 1 .. {1 << bits}")
    queues = organisation.pseudo_channels << (organisation.banks - 1).bit_length()
    if policy.scheduler == "per-bank-queues" and queues > MAX_QUEUES:
        raise ValueError(f"organisation: {queues} banks per channel; allowed with per-bank queues: 1 .. {MAX_QUEUES}")
