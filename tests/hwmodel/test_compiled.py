from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from numba import njit

from hwmodel.compiled import compiled, inlined

ROOT = Path(__file__).parents[2]
MODULE = """
from hwmodel.compiled import compiled

@compiled
def half(x):
    return x // 2

@compiled
def quarter(x):
    return half(half(x))
"""
SCRIPT = """
import sys
from module import half, quarter
print("ready", flush=True)
sys.stdin.readline()
answers = [function(x) for x in (40, 40.0) for function in (quarter, half)]
print(answers, sum(sum(f.stats.cache_misses.values()) for f in (half, quarter)))
"""


def test_of_processes_that_need_a_function_at_once_one_compiles_it(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", SCRIPT]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 3
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [process.communicate(timeout=600)[0].strip() for process in processes]
    answers, compiled = zip(*[line.rsplit(" ", 1) for line in lines], strict=True)
    assert set(answers) == {"[10, 20, 10.0, 20.0]"}
    assert sum(map(int, compiled)) == 2 * 2  # two functions for two types


@inlined
def more(x: int, by: int) -> int:
    return x + by


@compiled
def twice(x: int) -> int:
    return 2 * x


def _much_more(x: int) -> int:
    return int(twice(more(x, 1)) + more(more(x, 3), twice(x)) + twice(4))


much_more: Any = njit(_much_more)  # not kept on disk


def test_what_compiled_code_calls_is_compiled_once_for_all_constants_and_has_no_code_of_its_own() -> None:
    assert much_more(10) == 22 + 33 + 8
    for function in (more, twice):
        (found,) = function.inner().overloads.values()
        code = found._asdict()["library"]
        assert code.get_pointer_to_function(found.fndesc.llvm_func_name) == 0


def test_what_compiled_code_calls_may_be_called_from_python_too() -> None:
    assert (much_more(10), more(1, 2), more(2, 2), twice(3)) == (63, 3, 4, 6)


def numbers_from(tree: ast.Module) -> set[Path]:
    """Return the files from which compiled functions of a module, or its own numbers, take numbers (in capitals)."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    numbers = [node for node in tree.body if isinstance(node, ast.Assign)]
    used = {name.id for node in (*functions, *numbers) for name in ast.walk(node) if isinstance(name, ast.Name)}
    return {
        (ROOT / node.module.replace(".", "/")).with_suffix(".py")
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hwmodel.")
        if any(name.name.isupper() and (name.asname or name.name) in used for name in node.names)
    }


def test_every_file_with_a_number_that_functions_are_compiled_with_is_watched() -> None:
    """A change there makes kept code stale; watched are the files that speak of compiled code."""
    sources = {path: path.read_text() for path in (ROOT / "hwmodel").rglob("*.py")}
    users = [path for path, text in sources.items() if "@compiled" in text or "@inlined" in text]
    files = set().union(*(numbers_from(ast.parse(sources[path])) for path in users))
    assert {path.stem for path in files} >= {"state", "limits", "sram"}
    assert [path.stem for path in files if "compiled" not in sources[path]] == []
