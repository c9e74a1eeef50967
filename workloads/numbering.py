"""Entries that come one after another, so many of every owner: whose each is, and which of its owner's."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def within_owners(counts: Array) -> tuple[Array, Array]:
    """Return the owner of every entry and its number among the owner's, from 0: (0 0 2, 0 1 0) of counts (2 0 1)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
