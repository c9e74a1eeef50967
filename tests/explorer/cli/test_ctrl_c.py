from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_study import STUDY

from explorer.cli import app as cli
from explorer.storage.folder import rows_frame

ROOT = str(Path(__file__).parents[3])
LARGE = ("--machine", "h100-sxm", "--model", "llama-3.1-8b", "--batch", "256", "--context", "65536")
DECODE = ("--kernel", "decode-attention")
INTERRUPTED = """
import os, signal, sys, threading
from explorer.cli.app import main
threading.Timer(float(sys.argv.pop(1)), os.kill, (os.getpid(), signal.SIGINT)).start()
main()
"""


def test_an_interruption_that_became_another_error_is_still_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("Error calling __set_name__") from error

    def broken(**_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.main()


def test_an_interruption_that_a_callback_of_a_library_loses_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press() -> None:
        raise KeyboardInterrupt

    def interrupted(**_: object) -> None:
        ctypes.CFUNCTYPE(None)(press)()
        time.sleep(10)

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back behind the test
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("seconds", ["0.2", "2"])
@pytest.mark.parametrize(
    "command",
    [
        ("run", *LARGE, *DECODE, "--save", "x.run"),
        ("run", *LARGE, *DECODE, "--engine", "reference", "--save", "x.run"),
        ("whatif", *LARGE, *DECODE, "--set", "tile=32", "--fidelity", "exact"),
        ("step", *LARGE),
    ],
)
def test_ctrl_c_ends_a_command_without_a_word_and_leaves_nothing(
    tmp_path: Path, command: tuple[str, ...], seconds: str
) -> None:
    variables = os.environ | {"PYTHONPATH": ROOT}
    arguments = [sys.executable, "-c", INTERRUPTED, seconds, *command]
    done = subprocess.run(arguments, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode in (130, -signal.SIGINT)  # the same to a shell
    announced = r"(rowhit: the run loads and stores .*\n)?"  # before it begins, where it takes long
    assert done.stdout == ""
    assert re.fullmatch(announced, done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_done_and_the_same_command_continues(tmp_path: Path) -> None:
    home, study_file = tmp_path, tmp_path / "small.yaml"
    study_file.write_text(STUDY.replace("points: 6", "points: 12"))
    command = [sys.executable, "-m", "explorer.cli.app", "explore", str(study_file), "--jobs", "2"]
    variables = os.environ | {"PYTHONPATH": ROOT}
    running = subprocess.Popen(
        command, cwd=home, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = home / "results" / "small"
    lines = folder / "rows.jsonl"
    deadline = time.monotonic() + 600  # far more than it takes: a busy machine is no reason to fail
    while not (lines.exists() and lines.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=600)
    stopped = "rowhit: stopped; what is done is kept in results/small, the same command continues\n"
    assert (running.returncode, output, errors) == (130, "", stopped)
    kept = rows_frame(folder)["key"].tolist()
    assert kept
    command[-1] = "1"
    again = subprocess.run([*command, "--json"], cwd=home, env=variables, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    found = rows_frame(folder)["key"].tolist()
    assert kept == found[: len(kept)]
    assert len(found) == json.loads(again.stdout)["points"]
