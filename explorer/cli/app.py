"""The command line: reads arguments, calls one function, prints. Here it starts and ends; commands stand beside it.

Every user error ends as one line on stderr and exit status 2; an interrupted search says how to continue and
ends with 130. Heavy libraries are imported inside the commands, so that `rowhit --help` answers at once.
"""

from __future__ import annotations

import _thread
import gc
import io
import os
import sys
import threading
from typing import Annotated, NoReturn

import typer

from explorer.cli.catalog import kernels, machines, models
from explorer.cli.dashboard import dashboard
from explorer.cli.dram import dram
from explorer.cli.layout import layout
from explorer.cli.predict import predict
from explorer.cli.run import explain, program, run
from explorer.cli.saved import compare
from explorer.cli.step import step
from explorer.cli.study import explore, report
from explorer.cli.timeline import timeline
from explorer.cli.whatif import robust, whatif
from explorer.workers.threads import NAME as SIMULATION

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
ABOUT_KERNELS = (
    run, explain, compare, program, timeline, step, whatif, explore, robust, report, dashboard, predict,
)  # fmt: skip
for command in (*ABOUT_KERNELS, layout, kernels, machines, models):
    app.command()(command)
app.add_typer(dram, name="dram", help="Replay traces on one DRAM controller, check commands.")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"rowhit {version('rowhit')}")
        raise typer.Exit


@app.callback()
def _rowhit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Where should every byte live, and what does it cost to move it?"""


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        path = f"{error.filename}: " if error.filename else ""
        return f"{path}{error.strerror or error}"
    return " ".join(str(error).split())


def main() -> None:
    """Run the command line; user errors become one line and exit status 2, no arguments the help and 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without our characters shows others
            stream.reconfigure(errors="replace")
    sys.unraisablehook = _interrupt_again
    gc.set_threshold(10_000)  # by default a tenth of a short command's time goes into looking for garbage
    arguments = sys.argv[1:]
    try:
        status = app(args=arguments or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:  # an unknown option, a missing argument
        _fail(error.format_message())
    except BrokenPipeError:  # who reads has read enough, as `head` does
        _let_go()
    except (KeyboardInterrupt, typer.Abort):
        _end(130)
    except Exception as error:
        if _comes_of_an_interruption(error):
            _end(130)
        if not isinstance(error, ValueError | OSError | MemoryError):
            raise
        _fail("out of memory" if isinstance(error, MemoryError) else _one_line(error))
    if not arguments:
        sys.exit(2)
    _end(status if isinstance(status, int) else 0)


def _end(status: int) -> NoReturn:
    """End with a status; where threads still simulate, at once: compiled code takes no other end than the process's."""
    if any(thread.name == SIMULATION for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _comes_of_an_interruption(error: BaseException | None) -> bool:
    """Return whether Ctrl-C is behind an error: where a class is made Python 3.11 turns it into a RuntimeError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Press Ctrl-C once more where a library's callback has lost it, such as a compiler's; soon, as it is under way."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def _let_go() -> NoReturn:
    """End without a word; what is left in the buffer goes nowhere, instead of failing once more on the way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _fail(message: str) -> None:
    print(f"rowhit: {message}", file=sys.stderr)
    _end(2)


if __name__ == "__main__":
    main()
