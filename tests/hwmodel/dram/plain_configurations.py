"""The eight reference configurations as settings of the plain controllers, read from `configs.json` of the data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from plain_bank_queues import BankQueues, BankQueueSettings
from plain_controller import Constraint, Controller, Place
from plain_shared_buffers import SharedBuffers, SharedBufferSettings

Config = dict[str, Any]


def sliced(address: int, bits: list[list[Any]]) -> dict[str, int]:
    """Cut an address into fields; `col[4:2]` are bits 4 to 2 of the column."""
    fields: dict[str, int] = {}
    for name, low, high in bits:
        value = (address >> low) & ((1 << (high - low + 1)) - 1)
        name, _, part = name.partition("[")
        shift = int(part.rstrip("]").split(":")[-1]) if part else 0
        fields[name] = fields.get(name, 0) | value << shift
    return fields


def decoder(config: Config) -> Callable[[int], Place]:
    mapper = config["address_mapper"]
    bits = [[name, low, high] for name, low, high in mapper["bits_lsb_to_msb"]]
    # "pc ^= c&1; sid ^= (c>>1)&1; ...": the column is used up from its lowest bit, in the order of the fields
    widths = {name: high - low + 1 for name, low, high in bits if "col" not in name and name not in ("offset", "row")}

    def decode(address: int) -> Place:
        fields = sliced(address, bits)
        column = fields["col"]
        if mapper["xor"]:
            used = 0
            for name, width in widths.items():
                fields[name] ^= (column >> used) & ((1 << width) - 1)
                used += width
        return Place(
            fields.get("pc", 0), fields.get("sid", 0), fields["bg"], fields["bank"], fields["row"], fields["col"]
        )

    return decode


def shared_buffers(config: Config, **changes: Any) -> SharedBuffers:
    timing, queues = config["timing_ticks"], config["queues"]
    refreshed = config["refresh_manager"]["impl"] == "AllBank"
    constraints = tuple(
        Constraint(r["level"], tuple(r["prev"]), tuple(r["next"]), r["ticks"], r["window"], r["sibling"])
        for r in config["timing_constraints_ticks"]
    )
    settings: dict[str, Any] = {
        "constraints": constraints,
        "pseudo_channels": config["organisation"]["pseudo_channels"],
        "decode": decoder(config),
        "read_latency": config["read_latency_ticks"],
        "ticks_per_ck": config["ticks_per_CK"],
        "act_ticks": config["command_cycles_ticks"]["ACT"],
        "refresh_interval": timing["nREFI"] if refreshed else 0,
        "protect_hits": config["scheduler"] == "FRFCFS-RowHit",
        "read_capacity": queues["read_buffer"],
        "write_capacity": queues["write_buffer"],
        "high": queues["wr_high_watermark"],
        "low": queues["wr_low_watermark"],
    }
    return SharedBuffers(SharedBufferSettings(**settings | changes))


def bank_queue_constraints(d: dict[str, int]) -> tuple[Constraint, ...]:
    rd, wr, act, pre, ref = ("RD",), ("WR",), ("ACT",), ("PREpb",), ("REFab",)
    return (
        Constraint("PseudoChannel", rd, rd, d["read_to_read"]),
        Constraint("PseudoChannel", wr, wr, d["write_to_write"]),
        Constraint("PseudoChannel", rd, wr, d["read_to_write"]),
        Constraint("PseudoChannel", wr, rd, d["write_to_read_other_bg"]),
        Constraint("BankGroup", wr, rd, d["write_to_read_same_bg"]),
        Constraint("Bank", rd, pre, d["read_to_precharge"]),
        Constraint("Bank", wr, pre, d["write_to_precharge"]),
        Constraint("Bank", act, rd, d["act_to_read"]),
        Constraint("Bank", act, wr, d["act_to_write"]),
        Constraint("Bank", act, pre, d["act_to_pre"]),
        Constraint("Bank", act, act, d["act_to_act_same_bank"]),
        Constraint("BankGroup", act, act, d["act_to_act_same_bg"]),
        Constraint("PseudoChannel", act, act, d["act_to_act_other_bg"]),
        Constraint("PseudoChannel", act, act, d["four_activate_window"], 4),
        Constraint("Bank", pre, act, d["pre_to_act"]),
        Constraint("PseudoChannel", pre, ref, d["pre_to_ref"]),
        Constraint("PseudoChannel", ref, act, d["ref_to_act"]),
    )


def bank_queues(config: Config, **changes: Any) -> BankQueues:
    organisation, queues = config["organisation"], config["queues"]
    groups, banks = range(organisation["bank_groups"]), range(organisation["banks_per_group"])
    settings: dict[str, Any] = {
        "constraints": bank_queue_constraints(config["derived_ticks"]),
        "banks": tuple(Place(0, 0, bg, bank) for bg, bank in product(groups, banks)),
        "decode": decoder(config),
        "read_latency": config["derived_ticks"]["read_latency_issue_to_done"],
        "refresh_interval": config["timing_ck"]["tREFI"],
        "queue_depth": queues["cmd_queue_size_per_bank"],
        "read_capacity": queues["trans_queue_size_reads"],
        "write_capacity": queues["write_buffer"],
    }
    return BankQueues(BankQueueSettings(**settings | changes))


def plain(name: str, config: Config, **changes: Any) -> Controller:
    """Return the plain controller of a configuration, settings changed by name."""
    return shared_buffers(config, **changes) if name.startswith("ram2") else bank_queues(config, **changes)
