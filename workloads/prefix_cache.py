"""The pages of prompts that an engine keeps for whoever begins alike: a tree of blocks with owners.

Between the requests and the allocator, where prefixes are shared. A full block of a prompt joins the tree once its
tokens are computed. Sequences own the blocks that they begin with; a block that loses its last owner stays until pages
are short, and those that have been of no use for longest go first, children before parents (as in vLLM and in SGLang,
Zheng et al. 2024, arXiv:2312.07104).
Not modelled: joining equal blocks that two sequences compute at one time (each keeps its own), partly filled blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from workloads.allocator import FreePages, Pages

ROOT = 0


@dataclass
class _Block:
    key: tuple[int, int]  # parent, block number
    pages: Pages
    owners: int


class PrefixCache:
    """The tree over the pages of one pool. Nodes are numbers, the root is 0."""

    def __init__(self, free: FreePages) -> None:
        self._free = free
        self._nodes: dict[tuple[int, int], int] = {}
        self._blocks: dict[int, _Block] = {}
        self._made = ROOT
        self._unowned: OrderedDict[int, None] = OrderedDict()  # the first to go first, children before parents
        self._unowned_pages = 0

    @property
    def available(self) -> int:
        """Pages that are free or can be freed."""
        return self._free.count + self._unowned_pages

    def match(self, blocks: Sequence[int]) -> list[int]:
        """Return the nodes of the longest beginning of `blocks` that is here."""
        path, node = [], ROOT
        for block in blocks:
            found = self._nodes.get((node, block))
            if found is None:
                break
            path.append(found)
            node = found
        return path

    def unowned_pages(self, path: Sequence[int]) -> int:
        """Return how many pages of a path have no owner, and would be no longer available with one."""
        return sum(len(self._blocks[node].pages) for node in path if self._blocks[node].owners == 0)

    def pages(self, path: Sequence[int]) -> list[int]:
        """Return the pages of a path."""
        return [page for node in path for page in self._blocks[node].pages.tolist()]

    def own(self, path: Sequence[int]) -> None:
        """Give every node of a path one more owner."""
        for node in path:
            block = self._blocks[node]
            if block.owners == 0:
                del self._unowned[node]
                self._unowned_pages -= len(block.pages)
            block.owners += 1

    def disown(self, path: Sequence[int]) -> None:
        """Take one owner from every node of a path."""
        for node in reversed(path):
            block = self._blocks[node]
            block.owners -= 1
            if block.owners == 0:
                self._unowned[node] = None
                self._unowned_pages += len(block.pages)

    def insert(self, parent: int, block: int, pages: Pages) -> int | None:
        """Return the new node of a block below `parent`, with its pages and one owner; None if there is one already."""
        key = parent, block
        if key in self._nodes:
            return None
        self._made += 1
        self._nodes[key] = self._made
        self._blocks[self._made] = _Block(key, pages, 1)
        return self._made

    def take(self, count: int) -> Pages:
        """Return free pages, after freeing as many blocks without owners as that needs."""
        while self._unowned and not self._free.fits(count):
            node, _ = self._unowned.popitem(last=False)
            block = self._blocks.pop(node)
            del self._nodes[block.key]
            self._unowned_pages -= len(block.pages)
            self._free.give(block.pages)
        return self._free.take(count)

    def give(self, pages: Pages) -> None:
        """Free pages that are in no block."""
        self._free.give(pages)
