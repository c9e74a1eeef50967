"""The command line of one DRAM controller: `rowhit dram`, a part of `explorer.cli.app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from explorer.text.json_text import Json, print_json

dram = typer.Typer(add_completion=False, rich_markup_mode=None)

MAX_GAP_NS = 1e9  # assumed: a second; more is a slip of the unit

Config = Annotated[str, typer.Option(help="A controller by name, as `rowhit dram configs` lists them, or a YAML file.")]


@dram.command("replay")
def dram_replay(
    trace: Annotated[Path, typer.Argument(help="A trace (.npz): addr uint64, is_write bool.")],
    config: Config,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="path=value[,path=value] of the configuration.")
    ] = None,
    gap_ns: Annotated[float, typer.Option(min=0, help="From one access to the next, at least; whole ticks.")] = 0.0,
    access_bytes: Annotated[int, typer.Option(min=1, max=1 << 20, help="Bytes of an access.")] = 64,
    pictures: Annotated[Path | None, typer.Option(help="Write a page of pictures into this folder.")] = None,
    commands: Annotated[Path | None, typer.Option(help="Write the DRAM commands (CSV; .gz to compress).")] = None,
    latencies: Annotated[
        bool, typer.Option("--latencies", help="Keep a log: median, p99 and longest latency.")
    ] = False,
    no_shortcuts: Annotated[
        bool, typer.Option("--no-shortcuts", help="Simulate every period of regular traffic, too; the same answer.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Replay an address trace in order. As fast as the queues of the channels take it."""
    from explorer.dram import view as dram_view
    from explorer.study import settings

    changes = dict(settings.parse(",".join(sets))) if sets else {}
    chosen = dram_view.configured(config, changes)
    if not gap_ns <= MAX_GAP_NS:
        raise ValueError(f"--gap-ns {gap_ns}: must be at most {MAX_GAP_NS:g}")
    gap_fs = round(gap_ns * 1_000_000)
    result, written = dram_view.replayed(
        chosen, trace, access_bytes, gap_fs, pictures, commands, latencies, not no_shortcuts
    )
    asked = {"trace": str(trace), "config": config, "settings": changes, "access_bytes": access_bytes, "gap_ns": gap_ns}
    if as_json:
        print_json(result.record() | asked)
    else:
        print("\n".join([dram_view.replay_text(chosen, result, asked), *written.values()]))


@dram.command("check")
def dram_check(
    trace: Annotated[Path, typer.Argument(help="Commands as CSV, also gzipped: Ramulator 2.1's, DRAMsim3's or ours.")],
    config: Config,
    as_json: Json = False,
) -> None:
    """Check a command trace against timing rules and bank states. Exit status 1 if it breaks any."""
    from explorer.dram import view as dram_view

    facts = dram_view.checked(dram_view.configured(config, {}), trace)
    print_json(facts) if as_json else print(dram_view.check_text(facts))
    if facts["violations"]:
        raise typer.Exit(1)


@dram.command("configs")
def dram_configs(
    name: Annotated[str | None, typer.Argument(help="One configuration, by name or YAML file.")] = None,
    as_json: Json = False,
) -> None:
    """List the controller configurations, or describe one."""
    from explorer.dram import view as dram_view
    from explorer.text import tables

    if name is not None:
        facts = dram_view.configured(name, {}).summary()
        print_json(facts) if as_json else print(tables.sourced_text(facts, dram_view.CONFIG_UNITS))
        return
    listed = dram_view.list_configs()
    print_json(listed) if as_json else print(dram_view.configs_text(listed))
