"""What a step of a model computes: per sequence its KV tokens when the step is over, and how many of them are new.

The first step of the data's path for a whole model, as `batch` is for one kernel. A decode step, a prefill, chunks of
prefills, drafts to verify and any mixture are one thing: what differs is how many tokens of a sequence are new. A
sequence *decodes* if one token is new, or up to `MAX_VERIFIED` behind others: those are a draft that is verified. All
else is a prompt, or a chunk of one. A step has its decoding sequences first, by their new tokens, as engines reorder
them, so that each part of it that an attention kernel takes by itself is a range of the step's tokens.

Not modelled: which drafted tokens are accepted, trees of drafts, and the model that drafts. The last chunk of a prompt
is taken for a draft where it has so few tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from workloads.batch import check_contexts
from workloads.replay import Step

MAX_VERIFIED = 16  # assumed: new tokens of a sequence that engines still give to the kernel of a decode step


@dataclass(frozen=True)
class Scheduled:
    """The sequences of a step: `contexts` are the KV tokens after it, of which the last `new` are computed in it.

    Made by `decode`, `prefill` or `of`. Raises ValueError naming the sequence and what of it is not allowed.
    """

    contexts: tuple[int, ...]
    new: tuple[int, ...]

    def __post_init__(self) -> None:
        check_contexts(self.contexts)
        if len(self.new) != len(self.contexts):
            raise ValueError(f"batch: new tokens of {len(self.new)} sequences; allowed: {len(self.contexts)}")
        for sequence, (context, new) in enumerate(zip(self.contexts, self.new, strict=True)):
            if not 1 <= new <= context:
                raise ValueError(f"batch: sequence {sequence}: {new} new tokens; allowed: 1 to its context, {context}")

    @property
    def tokens(self) -> int:
        """The new tokens of all sequences."""
        return sum(self.new)

    @property
    def decodes(self) -> bool:
        """Whether all sequences decode."""
        return all(map(_decodes, self.contexts, self.new))

    @property
    def is_whole(self) -> bool:
        """Whether all tokens of all sequences are new."""
        return self.contexts == self.new

    @property
    def each(self) -> int | tuple[int, ...]:
        """The new tokens of every sequence: one number where all have as many, as kernels take it."""
        return self.new[0] if len(set(self.new)) == 1 else self.new

    @property
    def sampled(self) -> int:
        """The tokens whose logits are computed: all of sequences that decode, the last one of others."""
        return sum(new if _decodes(context, new) else 1 for context, new in zip(self.contexts, self.new, strict=True))

    @property
    def kind(self) -> str:
        """The name of such a step."""
        if self.decodes:
            return "decode" if max(self.new) == 1 else "speculative"
        return "mixed" if any(map(_decodes, self.contexts, self.new)) else "prefill"

    def parts(self) -> Iterator[Scheduled]:
        """Yield what attention kernels take by themselves: sequences that decode, by their new tokens, and the rest."""
        groups: dict[int, list[tuple[int, int]]] = {}
        for context, new in zip(self.contexts, self.new, strict=True):
            groups.setdefault(new if _decodes(context, new) else 0, []).append((context, new))
        for group in groups.values():
            yield of(group)


def of(sequences: Iterable[tuple[int, int]]) -> Scheduled:
    """Return the step of sequences given as (KV tokens after it, new tokens), those that decode first."""

    def place(sequence: tuple[int, int]) -> tuple[bool, int]:
        return (False, sequence[1]) if _decodes(*sequence) else (True, 0)

    ordered = sorted(sequences, key=place)
    return Scheduled(tuple(context for context, _ in ordered), tuple(new for _, new in ordered))


def decode(contexts: Sequence[int], draft: int = 0) -> Scheduled:
    """Return the step in which every sequence computes one token, and verifies `draft` more."""
    if not 0 <= draft < MAX_VERIFIED:
        raise ValueError(f"draft: {draft} tokens; allowed: 0 to {MAX_VERIFIED - 1}")
    return of((context, 1 + draft) for context in contexts)


def prefill(contexts: Sequence[int]) -> Scheduled:
    """Return the step that computes all tokens of every sequence."""
    return of((context, context) for context in contexts)


def served(step: Step) -> Scheduled:
    """Return a step of a trace that is served."""
    return of(zip((step.contexts + step.tokens).tolist(), step.tokens.tolist(), strict=True))


def _decodes(context: int, new: int) -> bool:
    return new == 1 or (new < context and new <= MAX_VERIFIED)
