"""Prefix sharing: which sequences begin with the same tokens, and how to group them for cascade decode.

Between the trace and the page table: a prompt is a path of blocks from the root of a tree, and two sequences share
the tokens of the path that their prompts have in common. Generated tokens are never shared.
Cascade decode reads the tokens that a group shares once for all its members and the rest member by member (Juravsky
et al. 2024, Hydragen, arXiv:2402.05099). A tree offers many groupings; `groups` gives the one with one shared stretch
per sequence that reads the fewest tokens.
Not modelled: cascades of several levels, and equal tokens at unequal places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.traces.table import RequestTable

ROOT = 0


@dataclass(frozen=True)
class Prefixes:
    """How the sequences of a batch begin.

    `blocks`: the block numbers of every sequence's prompt; `tokens`: its prompt tokens, which fill its blocks of
    `block_tokens` but maybe the last. Raises ValueError naming the sequence that has too few or too many blocks.
    """

    block_tokens: int
    blocks: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.block_tokens < 1:
            raise ValueError(f"prefixes: block_tokens is {self.block_tokens}; allowed: at least 1")
        if len(self.blocks) != len(self.tokens):
            raise ValueError(f"prefixes: blocks of {len(self.blocks)} sequences, tokens of {len(self.tokens)}")
        for sequence, (blocks, tokens) in enumerate(zip(self.blocks, self.tokens, strict=True)):
            if tokens < 0 or len(blocks) != -(-tokens // self.block_tokens):
                needed = f"{max(0, -(-tokens // self.block_tokens))} for its {tokens} prompt tokens"
                raise ValueError(f"prefixes: sequence {sequence} has {len(blocks)} blocks; allowed: {needed}")

    @staticmethod
    def of(table: RequestTable, requests: Sequence[int]) -> Prefixes:
        """Return the beginnings of some requests of a table. Raises ValueError for a table without blocks."""
        if table.blocks is None:
            raise ValueError(
                f"{table.source}: does not tell the blocks of its prompts; a trace with prefixes is needed"
            )
        blocks = tuple(tuple(table.blocks.of(request).tolist()) for request in requests)
        tokens = tuple(table.input_tokens[list(requests)].tolist())
        return Prefixes(table.blocks.block_tokens, blocks, tokens)

    def shared_tokens(self, one: int, other: int) -> int:
        """Return how many leading prompt tokens two sequences have in common."""
        pairs = zip(self.blocks[one], self.blocks[other], strict=False)
        alike = next(
            (n for n, (a, b) in enumerate(pairs) if a != b), min(map(len, (self.blocks[one], self.blocks[other])))
        )
        return min(alike * self.block_tokens, self.tokens[one], self.tokens[other])

    def paths(self) -> tuple[NDArray[np.int64], ...]:
        """Return per sequence the node of the prefix tree that each of its blocks is: equal for equal beginnings."""
        nodes: dict[tuple[int, int], int] = {}
        found = []
        for blocks in self.blocks:
            node, path = ROOT, []
            for block in blocks:
                node = nodes.setdefault((node, block), len(nodes) + 1)
                path.append(node)
            found.append(np.array(path, dtype=np.int64))
        return tuple(found)


class Group(NamedTuple):
    """Sequences (by number, rising) that all begin with the same `shared_tokens`."""

    shared_tokens: int
    members: tuple[int, ...]


@dataclass
class _Node:
    parent: int
    depth: int
    members: list[int]
    saved: int = 0  # tokens that need not be read twice, at best
    children_saved: int = 0
    is_group: bool = False


def groups(prefixes: Prefixes, granule: int = 1, most_tokens: Sequence[int] | None = None) -> tuple[Group, ...]:
    """Return the sequences in groups, each sequence in one, such that the fewest KV tokens are read.

    The tokens that a group shares are rounded down to a multiple of `granule` (a page), and are at most
    `most_tokens` of each member (its context). A sequence that shares nothing is a group of its own with 0 shared
    tokens. Groups come in the order of their first members.
    """
    if granule < 1:
        raise ValueError(f"groups: granule is {granule}; allowed: an integer of at least 1")
    limits = [min(pair) for pair in zip(prefixes.tokens, most_tokens or prefixes.tokens, strict=True)]
    tree = _tree(prefixes)
    for node in reversed(tree[1:]):  # children were made after their parents
        shared = _shared(node, prefixes.block_tokens, limits, granule)
        node.saved = max(node.children_saved, (len(node.members) - 1) * shared)
        node.is_group = node.saved > node.children_saved
        tree[node.parent].children_saved += node.saved
    found, grouped = [], set[int]()
    for node in tree[1:]:  # parents first: what lies below a group belongs to it
        if node.is_group and not grouped.intersection(node.members):
            found.append(Group(_shared(node, prefixes.block_tokens, limits, granule), tuple(node.members)))
            grouped.update(node.members)
    found += [Group(0, (sequence,)) for sequence in range(len(limits)) if sequence not in grouped]
    return tuple(sorted(found, key=lambda group: group.members))


def _tree(prefixes: Prefixes) -> list[_Node]:
    paths = prefixes.paths()
    tree = [_Node(ROOT, 0, list(range(len(paths))))]
    for sequence, path in enumerate(paths):
        parent = ROOT
        for node in path.tolist():
            if node == len(tree):
                tree.append(_Node(parent, tree[parent].depth + 1, []))
            tree[node].members.append(sequence)
            parent = node
    return tree


def _shared(node: _Node, block_tokens: int, limits: Sequence[int], granule: int) -> int:
    if len(node.members) < 2:
        return 0
    return min(node.depth * block_tokens, *(limits[member] for member in node.members)) // granule * granule
