"""One memory, asked from the command line: what a trace costs under a controller, and whether commands obey the rules.

Files in, facts out: traces of addresses (.npz) and of commands (CSV, also gzipped) are read here and may be hostile;
their sizes are bounded and every error is one line with the file and the place. What is computed is `hwmodel.dram`'s.
"""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from explorer.files import require_folder, require_place, write_atomically
from explorer.progress import announce_compiling
from explorer.text.tables import align, percent
from hwmodel.dram.config import DramConfig, config_names, load_config
from hwmodel.npz_file import Wanted, read_npz, readable

if TYPE_CHECKING:
    from hwmodel.dram.checker import Command, Violation
    from hwmodel.dram.controller import Dram
    from hwmodel.dram.replay_result import Replay

Array = np.ndarray[Any, Any]
MAX_ACCESSES = 1 << 26  # assumed: half a GiB of addresses, about a minute of replay
MAX_LINE = 4096  # characters; assumed: some fifty times any line of a command trace
SHOWN = 20  # violations
CONFIG_UNITS = {"pin_rate": "b/s", "capacity_bytes": "B", "peak_bytes_per_second": "B/s"}  # of a configuration's facts
HEADING = "clock,command,Channel,PseudoChannel,Sid,BankGroup,Bank,Row"  # as Ramulator 2.1 writes it
_ARRAYS = (Wanted("addr", ("uint64",), MAX_ACCESSES), Wanted("is_write", ("bool",), MAX_ACCESSES))


def configured(name: str, changes: Mapping[str, object]) -> DramConfig:
    """Return a configuration by name or file with values at paths replaced; ValueError as `with_overrides`."""
    return load_config(name).with_overrides(changes)


def list_configs() -> dict[str, dict[str, Any]]:
    """Return what each shipped configuration is, by name."""
    listed = {}
    for name in config_names():
        config = load_config(name)
        peak = float(config.peak_bytes_per_second)
        listed[name] = {"description": config.description, "standard": config.standard, "peak_bytes_per_second": peak}
    return listed


def configs_text(listed: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the configurations as a table."""
    return align(
        [
            (name, f"{facts['peak_bytes_per_second'] / 1e9:.1f} GB/s", str(facts["description"]))
            for name, facts in listed.items()
        ]
    )


def read_trace(path: Path) -> tuple[Array, Array]:
    """Return `addr` uint64[n] and `is_write` bool[n] of an .npz file; nothing in it is executed or unpickled.

    ValueError for a file that is none, an array that is missing or of another type, or more than MAX_ACCESSES.
    """
    arrays = read_npz(path, _ARRAYS)
    return arrays["addr"], arrays["is_write"]


def replayed(
    config: DramConfig,
    trace: Path,
    access_bytes: int,
    gap_fs: int,
    pictures: Path | None = None,
    commands: Path | None = None,
    latencies: bool = False,
    fast_forward: bool = True,
) -> tuple[Replay, dict[str, str]]:
    """Replay a trace file; write the pictures and the commands that are asked for; return the result and their paths.

    ValueError names the file and what is wrong in it.
    """
    from hwmodel.dram.replay_result import replay_trace

    announce_compiling()
    if commands is not None:
        require_place(commands, "--commands", trace)
    if pictures is not None:
        require_folder(pictures, "--pictures")
    addresses, writes = read_trace(trace)
    try:
        result, dram = replay_trace(
            config,
            addresses,
            writes,
            access_bytes=access_bytes,
            gap_fs=gap_fs,
            log_bursts=latencies or pictures is not None,
            record_commands=commands is not None or pictures is not None,
            fast_forward=fast_forward,
        )
    except ValueError as error:
        if str(error).startswith(f"{config.where}: "):  # the trace has no part in it
            raise
        raise ValueError(f"{trace}: {error}") from None
    written = {}
    if commands is not None:
        written["commands"] = str(_write_commands(commands, config, dram.commands()))
    if pictures is not None:
        written["pictures"] = str(_write_pictures(pictures, f"{trace.name} on {config.name}", dram))
    return result, written


def replay_text(config: DramConfig, result: Replay, asked: Mapping[str, Any]) -> str:
    """Return a replay for a terminal; `asked` is what `--json` says of it: trace, access_bytes, gap_ns, settings."""
    r, tick_ps = result, float(10**12 / config.timing.tick_hz)
    peak_gbps = float(config.peak_bytes_per_second) / 1e9
    merged = f"; {r.forwarded_reads:,} reads forwarded, {r.coalesced_writes:,} writes coalesced"
    latency = f"{r.avg_read_latency_ns:,.1f} ns mean"
    if r.latencies is not None:
        more = r.latencies
        latency += (
            f"; {more.p50_read_latency_ns:,.1f} median, {more.p99_read_latency_ns:,.1f} p99, "
            f"{more.max_read_latency_ns:,.1f} max"
        )
    held = f", {r.held_writes:,} still held" if r.held_writes else ""
    unmoved = " (with accesses that the pins did not move)" if r.forwarded_reads + r.coalesced_writes else ""
    rows = [
        ("time", f"{r.time_ns / 1000:,.3f} us, {r.ticks:,} ticks of {tick_ps:g} ps"),
        (
            "bandwidth",
            f"{r.bandwidth_fraction * peak_gbps:,.2f} GB/s, {percent(r.bandwidth_fraction)} of {peak_gbps:g} GB/s"
            f"{unmoved}",
        ),
        ("bursts", f"{r.row_hits:,} row hits, {r.row_misses:,} misses, {r.row_conflicts:,} conflicts{merged}"),
        ("commands", f"{r.act:,} ACT, {r.pre:,} PRE, {r.rd:,} RD, {r.wr:,} WR{held}, {r.ref:,} REF"),
        ("read latency", latency),
    ]
    pace = _pace(result, asked["gap_ns"])
    changes = "".join(f", {path} = {value}" for path, value in asked["settings"].items())
    offered = f"{Path(asked['trace']).name}, accesses of {asked['access_bytes']} B in order{pace}"
    return f"{offered}, on {config.name}{changes}: {config.description}\n{align(rows)}"


def _pace(result: Replay, gap_ns: float) -> str:
    """Return how far apart accesses are offered, and what was simulated where that is another gap."""
    if result.simulated_gap_ns == gap_ns:
        return f", {gap_ns:.9g} ns apart" if gap_ns else ""
    ticks = "1 tick" if result.gap_ticks == 1 else f"{result.gap_ticks:,} ticks"
    return f", {gap_ns:.9g} ns apart (simulated: {ticks}, {result.simulated_gap_ns:.9g} ns)"


def checked(config: DramConfig, trace: Path) -> dict[str, Any]:
    """Return what the checker says of a command trace: commands, violations in all and by rule, the first of them.

    Refreshes are judged where the configuration has them; each channel by itself, however many the trace has.
    ValueError names the file and the line or command.
    """
    from hwmodel.dram.checker import Checker
    from hwmodel.dram.command_trace import read_commands

    interval = config.timing.nREFI if config.policy.refresh != "none" else 0
    checker = Checker(config.rules(), config.organisation, refresh_interval_ticks=interval)
    first: list[Violation] = []
    by_rule: Counter[str] = Counter()
    end = 0

    def note(violations: Iterable[Violation]) -> None:
        for violation in violations:
            late = "refresh too late" if violation.missing_ticks else violation.problem
            by_rule[violation.rule.name if violation.rule is not None else late] += 1
            if len(first) < SHOWN:
                first.append(violation)

    with readable(trace, "not readable"), _opened(trace) as file:
        try:
            for part in read_commands(_lines(file), config.organisation):
                note(checker.feed(part))
                end = max(end, int(part[:, 0].max()))
        except ValueError as error:
            raise ValueError(f"{trace}: {error}") from None
    if not checker.commands:
        raise ValueError(f"{trace}: no commands; at least 1 is needed")
    note(checker.finish(end))
    return {
        "commands": checker.commands,
        "violations": by_rule.total(),
        "by_rule": dict(by_rule),
        "first": [_violation_record(violation) for violation in first],
    }


def check_text(facts: Mapping[str, Any]) -> str:
    """Return what `checked` found for a terminal: a line per violation, then how many by rule."""
    lines = [str(found["text"]) for found in facts["first"]]
    if facts["violations"] > len(lines):
        lines.append(f"... and {facts['violations'] - len(lines):,} more")
    by_rule = ", ".join(f"{count:,} {name}" for name, count in facts["by_rule"].items())
    found = f"{facts['violations']:,} violations: {by_rule}" if facts["violations"] else "no violations"
    return "\n".join([*lines, f"{facts['commands']:,} commands, {found}"])


def _violation_record(violation: Violation) -> dict[str, Any]:
    command, previous = violation.command, violation.previous
    text = f"{_place(command)}: {violation.problem}"
    if previous is not None:
        ticks = "1 tick" if violation.missing_ticks == 1 else f"{violation.missing_ticks} ticks"
        text = f"{_place(command)}: {ticks} too early after {_place(previous)}"
        text += f": {violation.rule.name}" if violation.rule is not None else ""
    return {
        "text": text,
        "command": command.index,
        "previous": previous.index if previous is not None else None,
        "rule": violation.rule.name if violation.rule is not None else None,
        "missing_ticks": violation.missing_ticks,
    }


def _place(command: Command) -> str:
    """Return a command in words; what does not apply is left out."""
    fields = ("channel", "pseudo_channel", "bank_group", "bank", "row")
    where = [f"{name.replace('_', ' ')} {getattr(command, name)}" for name in fields if getattr(command, name) >= 0]
    number = f" (command {command.index})" if command.index >= 0 else ""
    return f"tick {command.tick} {command.name}{number} {', '.join(where)}"


def _opened(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", errors="replace")
    return path.open(encoding="utf-8-sig", errors="replace")  # with or without the mark at the beginning


def _lines(file: io.TextIOBase) -> Iterator[str]:
    number = 1
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise ValueError(f"line {number}: more than {MAX_LINE - 1} characters")
        yield line
        number += 1


def _write_commands(path: Path, config: DramConfig, commands: Array) -> Path:
    """Write a command trace that `rowhit dram check` reads, gzipped where the name ends in .gz."""
    from hwmodel.dram.rules import COMMANDS

    per_group = config.organisation.banks_per_group
    lines = [HEADING]
    in_time = commands[np.argsort(commands[:, 0], kind="stable")]
    for tick, channel, pc, group, bank, row, command in in_time.tolist():
        stack_id, member = divmod(bank, per_group) if bank >= 0 else (-1, -1)
        lines.append(f"{tick},{COMMANDS[command]},{channel},{pc},{stack_id},{group},{member},{row}")
    data = ("\n".join(lines) + "\n").encode()
    write_atomically(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def _write_pictures(folder: Path, title: str, dram: Dram) -> Path:
    from explorer.dram.figures import write_pictures
    from hwmodel.dram.trace import OUTCOMES, DramTrace

    bursts = dram.bursts()
    with_commands = bursts[bursts[:, 6] < len(OUTCOMES)]  # forwarded and coalesced ones had none
    return write_pictures(
        folder, DramTrace(dram.commands(), with_commands, dram.timing, dram.organisation), title=title
    )
