"""The reference configurations as `Dram` objects of the compiled controller, and its outcome in plain terms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from hwmodel.dram import state as k
from hwmodel.dram.controller import Dram
from hwmodel.dram.policy import Policy
from hwmodel.dram.standards import COMMANDS, Organisation, Rule

FIELDS = ("stack", "channel", "pseudo_channel", "bank_group", "bank", "row", "column")
LEVELS = {
    "Channel": "channel",
    "PseudoChannel": "pseudo_channel",
    "Sid": "stack_id",
    "BankGroup": "bank_group",
    "Bank": "bank",
}
NAMES = {"PREpb": "PRE"} | {name: name for name in ("ACT", "PREab", "RD", "WR", "REFab")}
FIELD_OF = {"pc": "pseudo_channel", "sid": "bank", "bg": "bank_group", "bank": "bank", "row": "row", "col": "column"}
Config = dict[str, Any]
CHANNEL_BYTES = 1 << 30


def organisation(config: Config, channels: int) -> Organisation:
    given = config["organisation"]
    return Organisation(
        channels=channels,
        pseudo_channels=given["pseudo_channels"],
        stack_ids=given.get("sids", 1),
        bank_groups=given["bank_groups"],
        banks_per_group=given["banks_per_group"],
        rows=given["rows"],
        row_bytes=given.get("row_bytes_per_pc", given.get("row_bytes")),
        burst_bytes=given["burst_bytes"],
        width_bits=64,
    )


def address_map(config: Config, channels: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the digits and hashes that `Dram` takes; the stack ID is the upper part of the bank field.

    Channels are the top of the address.
    """
    digits, hashes, used = [], [], 0
    above_bank = config["organisation"]["banks_per_group"]
    for text, low, high in config["address_mapper"]["bits_lsb_to_msb"]:
        name, _, part = text.partition("[")
        if name == "offset":
            continue
        multiplier = 1 << int(part.rstrip("]").split(":")[-1]) if part else 1
        field, width = FIELDS.index(FIELD_OF[name]), high - low + 1
        digits.append((1 << low, 1 << width, field, above_bank if name == "sid" else multiplier))
        if config["address_mapper"]["xor"] and name in ("pc", "sid", "bg", "bank"):
            first = above_bank.bit_length() - 1 if name == "sid" else 0
            hashes += [(field, first + bit, FIELDS.index("column"), used + bit) for bit in range(width)]
            used += width
    digits.append((CHANNEL_BYTES, channels, FIELDS.index("channel"), 1))
    return np.array(digits, np.int64), np.array([(*row, 0, 0)[:6] for row in hashes], np.int64).reshape(-1, 6)


def rule_table(constraints: Any) -> tuple[Rule, ...]:
    rules = []
    for c in constraints:
        before = tuple(NAMES[name] for name in c.before if name in NAMES)
        after = tuple(NAMES[name] for name in c.after if name in NAMES)
        if before and after:
            rules.append(Rule("reference", LEVELS[c.level], before, after, c.ticks, c.window, c.sibling))
    return tuple(rules)


def timing(config: Config, refresh_interval: int) -> Any:
    if "timing_ticks" in config:
        t, act = config["timing_ticks"], config["command_cycles_ticks"]["ACT"]
        latency = {"nBL": t["nBL"], "nCL": t["nCL"], "nCWL": t["nCWL"], "nRFC": t["nRFC"], "nRFCpb": t["nRFCpb"]}
    else:
        t, act = config["timing_ck"], 1
        latency = {"nBL": t["burst_cycle"], "nCL": t["RL"], "nCWL": t["WL"], "nRFC": t["tRFC"], "nRFCpb": t["tRFCb"]}
    per_ck = config["ticks_per_CK"]
    return SimpleNamespace(
        **latency, nREFI=refresh_interval, nREFIpb=1, ticks_per_ck=per_ck, column_ticks=per_ck, act_ticks=act
    )


def compiled_memory(config: Config, settings: Any, channels: int = 1) -> Dram:
    """Return a `Dram` whose channels should do what the plain controller with these settings does."""
    if hasattr(settings, "protect_hits"):
        options: dict[str, Any] = {
            "scheduler": "fr-fcfs-row-hit" if settings.protect_hits else "fr-fcfs",
            "write_high": settings.high,
            "write_low": settings.low,
        }
    else:
        options = {
            "scheduler": "per-bank-queues",
            "write_high": 1.0,
            "write_low": min(1.0, (settings.idle_drain_above + 0.5) / settings.write_capacity),
            "bank_queue": settings.queue_depth,
            "hit_streak": settings.hit_streak,
        }
    policy = Policy(
        refresh="all-bank" if settings.refresh_interval else "none",
        read_queue=settings.read_capacity,
        write_queue=settings.write_capacity,
        **options,
    )
    interval = settings.refresh_interval or 1 << 40
    return Dram(
        timing(config, interval),
        organisation(config, channels),
        1,
        address_map(config, channels),
        policy,
        table=rule_table(settings.constraints),
        record_commands=True,
    )


def commands_of(dram: Dram) -> list[tuple[Any, ...]]:
    """Return (tick, command, pseudo-channel, stack ID, bank group, bank, row), -1 for what does not apply."""
    names = {ours: theirs for theirs, ours in NAMES.items()}
    per_group, rows = dram.organisation.banks_per_group, []
    for tick, _, pc, group, bank, row, command in dram.commands().tolist():
        name = names[COMMANDS[command]]
        where = (-1, -1) if bank < 0 else divmod(bank, per_group)
        rows.append((tick, name, pc, where[0], group, where[1], row if name == "ACT" or bank >= 0 else -1))
    return [(*r[:6], -1) if r[1] == "PREpb" else r for r in rows]


def outcome_of(dram: Dram, bursts: Any) -> tuple[dict[str, int], list[tuple[Any, ...]]]:
    """Replay bursts (tick, address, is write) and return the figures and the commands, as the simulators count them."""
    shared = dram.policy.scheduler != "per-bank-queues"
    dram.state.scalars[k.REPLAYING] = 1
    dram.reserve(len(bursts) + 1)
    for tick, address, is_write in bursts:
        dram.enqueue(address, -1, is_write, tick)
    dram._run(k.NEVER, 1)
    ticks = int(dram.state.channels[:, k.LAST_DONE].max())
    dram.advance(ticks + shared)  # refreshes go on while the last read is under way
    return {"ticks": ticks} | figures_of_compiled(dram), commands_of(dram)


def figures_of_compiled(dram: Dram) -> dict[str, int]:
    """Return all counts by the names that the plain controllers give them."""
    s = dram.statistics()
    figures = {"ACT": s.activates, "PREpb": s.precharge_commands, "PREab": s.precharge_all_commands}
    figures |= {"RD": s.reads - s.merged_reads, "WR": s.writes - s.merged_writes, "REFab": s.refreshes}
    names = ("row_hits", "row_misses", "row_conflicts", "latency_ticks_sum", "latency_ticks_max")
    return figures | {name: getattr(s, name) for name in (*names, "merged_reads", "merged_writes")}
