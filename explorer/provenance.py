"""Where a result comes from: versions, commit, seed and digests, so that a reader can repeat it.

Names of machines that computed it, of users and of folders stay out.
"""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from explorer.store import Identity

LIBRARIES = ("numpy", "numba", "simpy", "optuna", "pandas", "pyarrow", "plotly")

_LABELS = {
    "machine": "machine hash",
    "model": "model hash",
    "batch": "batch hash",
    "batch_source": "batch from",
    "simulator": "simulator hash",
}


def provenance(identity: Identity) -> dict[str, str]:
    """Return what the results of a study depend on, by name."""
    study = identity.study
    return {
        **versions(),
        "study": f"{study.name}, hash {study.hash}",
        "search seed": str(study.seed),
        "batch seed": str(study.batch.seed) if study.batch else "no batch",
        "machine": study.machine,
        **{_LABELS.get(name, name): text for name, text in identity.inputs.items()},
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of the program and of what it computes with, by name."""
    return {
        "rowhit": _version("rowhit"),
        "commit": commit() or "not from a git checkout",
        "python": platform.python_version(),
        **{library: _version(library) for library in LIBRARIES},
    }


def commit() -> str:
    """Return the commit of this checkout, marked when files differ from it; empty outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    head = _git(root, "rev-parse", "HEAD")
    return head + " with local changes" if head and _git(root, "status", "--porcelain") else head


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed as a package"
