"""The channel mixer of a layer: a gated MLP, or experts chosen by a router.

Each says its `parameters` and its `active_parameters`, those that one token uses.
Not modelled: activation functions, scaling of the router's scores, groups of experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from workloads.model.fields import check_part


class FeedForward(Protocol):
    """What every channel mixer says of itself."""

    @property
    def hidden(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    @property
    def active_parameters(self) -> int: ...


@dataclass(frozen=True)
class Dense:
    """A gated MLP: gate and up projection to `intermediate` channels, and one down."""

    hidden: int
    intermediate: int
    bias: bool = False

    def __post_init__(self) -> None:
        check_part(self)

    @property
    def kind(self) -> str:
        """Return the name of the kind."""
        return "dense"

    @property
    def parameters(self) -> int:
        """The weights of the three matrices and their biases."""
        return 3 * self.hidden * self.intermediate + (2 * self.intermediate + self.hidden if self.bias else 0)

    @property
    def active_parameters(self) -> int:
        """All of them."""
        return self.parameters


@dataclass(frozen=True)
class Experts:
    """`routed` gated MLPs of which a token uses `top_k`, and one it always uses where `shared_intermediate` is not 0.

    `shared_intermediate` is the width of all shared experts together. `router_bias`: a number per expert added to its
    score. `router_scale`: a weight per channel before the router and one per expert behind it (Gemma 4).
    `shared_gate`: a gate on the shared expert (Qwen). `hash_routed`: a table by token says which experts; its integers
    are not counted, the router's weights, which still weigh the experts, are.
    """

    hidden: int
    routed: int
    top_k: int
    intermediate: int
    shared_intermediate: int = 0
    bias: bool = False
    router_bias: bool = False
    router_scale: bool = False
    shared_gate: bool = False
    hash_routed: bool = False

    def __post_init__(self) -> None:
        check_part(self, "shared_intermediate")
        if self.top_k > self.routed:
            raise ValueError(f"experts per token are {self.top_k}; allowed: at most the experts ({self.routed})")

    @property
    def kind(self) -> str:
        """Return the name of the kind."""
        return "hash_experts" if self.hash_routed else "experts"

    @property
    def expert(self) -> Dense:
        """One routed expert."""
        return Dense(self.hidden, self.intermediate, self.bias)

    @property
    def always_parameters(self) -> int:
        """The weights every token uses: of the router and of the shared expert."""
        router = self.hidden * self.routed + (self.routed if self.router_bias else 0)
        router += self.hidden + self.routed if self.router_scale else 0
        shared = Dense(self.hidden, self.shared_intermediate, self.bias).parameters if self.shared_intermediate else 0
        return router + shared + (self.hidden if self.shared_gate else 0)

    @property
    def parameters(self) -> int:
        """The weights of the router and of all experts."""
        return self.always_parameters + self.routed * self.expert.parameters

    @property
    def active_parameters(self) -> int:
        """The weights of the router, of the shared and of `top_k` routed experts."""
        return self.always_parameters + self.top_k * self.expert.parameters
