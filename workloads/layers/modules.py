"""Which products of which layers are meant by the modules that a quantisation block names.

Between the block's lists of names and `formats`. A product stands for modules of the names that published checkpoints
use. A list may be long, and patterns hostile: what a pattern names is found once, for all layers together where their
numbers cannot matter, and lists that would take more than seconds are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase, translate
from functools import cache

_EXPERTS = "mlp.experts", "block_sparse_moe.experts", "feed_forward.experts", "ffn.experts"
_SHARED = "mlp.shared_experts", "mlp.shared_expert", "feed_forward.shared_expert", "ffn.shared_experts"
_LATENT = ("self_attn.kv_b_proj",)
MODULES = {  # by title of a product: modules of a layer, in the names of published checkpoints
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    "out": ("self_attn.o_proj", "linear_attn.out_proj", "attn.wo_b"),
    "q down": ("self_attn.q_a_proj", "attn.wq_a"),
    "q up": ("self_attn.q_b_proj", "self_attn.q_proj", "attn.wq_b"),
    "kv down": ("self_attn.kv_a_proj_with_mqa",),
    "kv": ("attn.wkv",),
    "index q": ("self_attn.indexer.wq_b", "attn.indexer.wq_b"),
    "index k": ("self_attn.indexer.wk",),
    "kv up": _LATENT,
    "absorb": _LATENT,
    "value up": _LATENT,
    "out groups": ("attn.wo_a",),
    "in": ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", "self_attn.q_proj"),
    "decay": ("self_attn.f_b_proj",),
    "gate": ("self_attn.g_b_proj",),
    "gate and up": ("mlp.gate_proj", "mlp.up_proj", "feed_forward.gate_proj", "feed_forward.up_proj"),
    "down": ("mlp.down_proj", "feed_forward.down_proj"),
    "experts": tuple(f"{name}.0.gate_proj" for name in _EXPERTS) + _EXPERTS,
    "shared gate and up": tuple(f"{name}.gate_proj" for name in _SHARED),
    "shared down": tuple(f"{name}.down_proj" for name in _SHARED),
}
EVERYWHERE, GLOBS = "*", frozenset("*?[")
MOST_MATCHES = 1 << 14  # assumed: of expressions with layers, some seconds; published lists have fewer than a thousand
MOST_STARS = 3  # assumed: of an expression; each multiplies the places that a hostile one may try
_LAYER_AT = 2  # in model.layers.7.mlp, where is the layer's number


class Modules:
    """The modules that some patterns name, as the titles of products, in a model of so many layers.

    `unread`: the patterns that are not understood and name nothing. Raises ValueError for too many.
    """

    def __init__(self, patterns: Iterable[str], layers: int) -> None:
        self._titles: dict[str, set[str]] = {}  # by layer: its number, as many `?` as it has digits, or EVERYWHERE
        self._layers, self._matches = layers, 0
        unread = []
        for pattern in patterns:
            if not pattern.startswith("re:"):
                self._add_named(pattern)
            elif expression := _expression(pattern[3:]):
                self._add_matched(expression)
            else:
                unread.append(pattern)
        self.unread = tuple(unread)

    def titles(self, layer: int) -> frozenset[str]:
        """Return the titles of the products of a layer that stand for a module that is named or lies in one."""
        number = str(layer)
        return frozenset().union(*(self._titles.get(key, ()) for key in (EVERYWHERE, "?" * len(number), number)))

    @property
    def is_empty(self) -> bool:
        """Whether no product of any layer is named."""
        return not any(self._titles.values())

    def _add_named(self, pattern: str) -> None:
        """Add what a name means, or a part of one: whole between dots, with globs for what is between two dots."""
        wanted = [part for part in pattern.split(".") if part not in ("language_model", "weight")]
        if not all(part in _words() or part.isdigit() or set(part) & GLOBS for part in wanted):
            return
        tests = [_test(part) for part in wanted]
        for title, parts in _parts():
            for start in range(len(parts) - len(wanted) + 1 if wanted else 0):
                layer = _LAYER_AT - start
                if all(at == layer or test(parts[start + at]) for at, test in enumerate(tests)):
                    glob = wanted[layer] if 0 <= layer < len(wanted) else EVERYWHERE
                    for key in self._numbers(glob):
                        self._titles.setdefault(key, set()).add(title)

    def _numbers(self, glob: str) -> Iterable[str]:
        """Return the keys of the layers whose numbers a glob means."""
        if glob.isdigit() or glob == EVERYWHERE or not glob.strip("?"):
            return [glob]
        if "[" not in glob and not glob.replace("*", "").replace("?", "").isdigit():
            return []
        return [number for number in self._each_layer() if fnmatchcase(number, glob)]

    def _add_matched(self, expression: re.Pattern[str]) -> None:
        """Add what an expression means: without digits of its own it takes all numbers of as many digits alike."""
        text = expression.pattern
        one = re.search(r"layers\\\.(\d{1,9})\\\.", text)
        if one:
            numbers: Iterable[str] = [one[1]]
        elif any(letter.isdigit() for letter in text):
            numbers = self._each_layer()
        else:
            numbers = ["?" * digits for digits in range(1, len(str(self._layers)) + 1)]
        for number in numbers:
            self._count(1)
            before = f"model.layers.{number.replace('?', '1')}."
            titles = {title for title, name in _names() if expression.match(before + name)}
            self._titles.setdefault(number, set()).update(titles)

    def _each_layer(self) -> Iterator[str]:
        self._count(self._layers)
        return map(str, range(self._layers))

    def _count(self, matches: int) -> None:
        self._matches += matches
        if self._matches > MOST_MATCHES:
            raise ValueError(
                f"quantization_config: patterns of modules to be matched with each of {self._layers} layers take more "
                f"than {MOST_MATCHES} matches; allowed: names of layers, or fewer patterns"
            )


@cache
def _names() -> tuple[tuple[str, str], ...]:
    return tuple((title, name) for title, names in MODULES.items() for name in names)


@cache
def _parts() -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((title, ("model", "layers", "", *name.split("."))) for title, name in _names())


@cache
def _words() -> frozenset[str]:
    """Return all parts of names; what has others names none."""
    return frozenset(part for _, parts in _parts() for part in parts)


def _test(want: str) -> Callable[[str], object]:
    """Return what tells whether a part of a module's name is a wanted one, which may be a glob."""
    return re.compile(translate(want)).match if set(want) & GLOBS else want.__eq__


def _expression(text: str) -> re.Pattern[str] | None:
    """Return an expression as `compressed-tensors` has them, None for one that might take long, or says other things.

    Known are names, dots, `.*`, `\\d+`, classes of characters and choices in brackets. No group is repeated, and little
    else, so that it takes polynomial time.
    """
    several = r"\[\^?(?:\w-\w|[\w.]|\\[d.])+\][+*]?"
    known = rf"(?:[\w-]|\\\.|\.\*|\.|\\d\+?|{several}|\((?:\?:)?[\w|]+\)|\^|\$)*"
    if not re.fullmatch(known, text) or text.count("*") + text.count("]+") > MOST_STARS:
        return None
    try:
        return re.compile(text)
    except re.error:  # such as a range of characters from the last to the first
        return None
