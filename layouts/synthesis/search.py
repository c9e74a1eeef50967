"""The F2 layout of a tile that no bank conflict is left in, with the proof that none has less.

From the accesses of all producers and consumers of a tile to its layout in banked memory.  Over F2 an access costs
what the kernel K of the bank projection shares with its words V: 2^dim(V ∩ K) cycles per phase, and never less than
2^(dim V - bank bits).  First the compact layouts with a CuTe swizzle ``S<b,m,s>`` are looked at; if none reaches the
sum of these bounds, `layouts.synthesis.subspaces` searches the spaces K, and a layout is built around the best one:
what it does to the low bits is what the high bits must be XORed with.

The vectors of an access stay contiguous and in order: they take the lowest bits of the offset.

Not modelled: tiles and banks that are no powers of two, padding (which conflicts of any layout can be traded for,
see `layouts.analysis.conflicts` for its cost), and accesses in flight together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layouts.analysis.conflicts import Access, Banks, bank_conflicts
from layouts.f2 import apply, kernel_basis, rank
from layouts.layout import Layout
from layouts.synthesis.subspaces import MAX_STATES, Basis, least_cycles
from layouts.synthesis.tile_problem import Tile, best_swizzle, layout_around


@dataclass(frozen=True)
class Bound:
    """What one access costs: a phase needs at least `lower` cycles in any layout, and takes `degree` in this one.

    A phase asks for words that span `word_bits` dimensions.
    """

    access: Access
    word_bits: int
    lower: int
    degree: int

    @property
    def is_reached(self) -> bool:
        """Whether no layout serves this access faster."""
        return self.degree == self.lower


@dataclass(frozen=True)
class Synthesis:
    """A layout and its certificate.

    `wavefronts` are the cycles of all phases of all accesses, `lower` what no F2 layout has less of.  `proof` is
    "bounds" if every access reaches its bound, "exhausted" if the spaces K were all looked at (up to symmetry),
    "open" if the search was given up: then `lower` is the sum of the bounds.  `kernel` spans the index differences
    that stay within a bank: K; its part in an access's words is what that access loses.
    """

    layout: Layout
    bounds: tuple[Bound, ...]
    wavefronts: int
    lower: int
    proof: str
    kernel: Basis
    states: int

    @property
    def is_optimal(self) -> bool:
        """Whether it is proven that no F2 layout has fewer wavefronts."""
        return self.wavefronts == self.lower

    def __str__(self) -> str:
        lines = [f"{self.layout}: {self.wavefronts} wavefronts, at least {self.lower} ({self.proof})"]
        for place, bound in enumerate(self.bounds):
            lines.append(
                f"  {bound.access.name or f'access {place}'}: {bound.access.phases} phases of {bound.degree} cycles, "
                f"at least {bound.lower}, for words of {bound.word_bits} bits"
            )
        return "\n".join(lines)


def synthesize(
    shape: Sequence[int], accesses: Sequence[Access], banks: Banks, element_bytes: int, most_states: int = MAX_STATES
) -> Synthesis:
    """Return the F2 layout of a tile with the fewest wavefronts over all accesses, and the proof.

    `shape` has one power of two per dimension, dimension 0 first; accesses give linear indices of it or coordinates.
    ValueError where something is no power of two or not linear over F2, or the vectors of two accesses cannot both
    be contiguous.
    """
    tile = Tile.of(shape, accesses, banks, element_bytes)
    lower = sum(demand.least(tile.bank_bits, tile.free) for demand in tile.demands)
    swizzled = best_swizzle(tile)
    if swizzled is not None and swizzled[0] == lower:
        return _certified(tile, swizzled[1], lower, "bounds", 0)
    found = least_cycles(tile.demands, tile.bank_bits, tile.free, tile.apart, most_states)
    proof = "bounds" if found.cycles == lower else "exhausted" if found.complete else "open"
    layout = swizzled[1] if swizzled is not None and swizzled[0] <= found.cycles else layout_around(tile, found)
    return _certified(tile, layout, found.cycles if found.complete else lower, proof, found.states)


def _certified(tile: Tile, layout: Layout, lower: int, proof: str, states: int) -> Synthesis:
    bounds = []
    for access, demand in zip(tile.accesses, tile.demands, strict=True):
        found = bank_conflicts(layout, access, tile.banks, tile.element_bytes)
        least = demand.least(tile.bank_bits, tile.free) // access.phases
        words = [apply(layout.bits, bit) for bit in tile.phase(access)]
        bounds.append(Bound(access, rank(tile.words(words)), least, found.degree))
    wavefronts = sum(bound.degree * bound.access.phases for bound in bounds)
    projection = [word & (tile.banks.count - 1) for word in tile.words(layout.bits)[: len(layout.bits)]]
    return Synthesis(layout, tuple(bounds), wavefronts, lower, proof, kernel_basis(projection), states)


__all__ = ["Bound", "Synthesis", "synthesize"]
