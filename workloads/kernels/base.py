"""What every kernel template is made of, and the checks they share.

Every error begins with what is at fault: the knob, or `model`, `batch`, `options` for the parts of the problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hwmodel.machine import Machine, TooLarge
from hwmodel.program import Program
from layouts.notation import NamedLayout, named, nearest_first
from workloads.batch import Batch
from workloads.model import Model
from workloads.routing import read_routing


@dataclass(frozen=True)
class Kernel:
    """A template: from a model and a batch to a problem, from a problem and knobs to a program.

    `Knobs` is a frozen dataclass of `knob` fields. `shape(model, batch, options)` gives the problem from what the
    kernel `needs` (of "model" and "batch") and the sizes named in `options` and `optional`, which have a default, a
    number or, of what is a choice among names, a name; `canonical(problem, knobs)` gives a key that is equal for knobs
    of one meaning, `compile(problem, knobs, machine, seed)` the program; `candidates(problem, machine)` knobs to try
    where none are given, the best first. `sizes`: what every size means, by its name. `gives(model)`: the sizes that a
    model gives where they are not among the options; of a kernel that needs no model. `typed`: whether a model gives
    the dtype. `routed`: whether its problem may have a recorded `routing`. `keeps`: which of its tensors, by name, are
    there before a run and stay: weights, and caches that are a kernel's alone.
    """

    name: str
    description: str
    Knobs: type[Any]
    needs: tuple[str, ...]
    options: tuple[str, ...]
    shape: Callable[[Model | None, Batch | None, Mapping[str, Any]], Any]
    canonical: Callable[[Any, Any], tuple[Any, ...]]
    compile: Callable[[Any, Any, Machine, int], Program]
    optional: Mapping[str, int | str] = field(default_factory=dict)
    candidates: Callable[[Any, Machine], Iterator[Any]] | None = None
    sizes: Mapping[str, str] = field(default_factory=dict)
    gives: Callable[[Model], Mapping[str, int]] | None = None
    typed: bool = True
    routed: bool = False
    keeps: tuple[str, ...] = ()

    @property
    def least_sizes(self) -> dict[str, int | str]:
        """The least that each size may be; of a choice among names the default."""
        sizes: dict[str, int | str] = {**dict.fromkeys(self.options, 1), **self.optional}
        return {name: size if isinstance(size, str) else least_size(size) for name, size in sizes.items()}

    def recorded(self, model: Model | None, options: Mapping[str, Any], path: str) -> Any:
        """Return the problem whose tokens go to the experts that a file says, see `workloads.routing.read_routing`.

        Tokens and topk are those of the file where neither options nor the model give them; the number of experts they
        give. Raises ValueError for a kernel that takes no routing, and naming a file that is none or has other sizes.
        """
        if not self.routed:
            raise ValueError(f"routing: kernel {self.name} takes none; kernels of experts do, such as moe")
        given = (dict(self.gives(model)) if model and self.gives else {}) | dict(options)
        if "experts" not in given:
            raise ValueError(f"options: size experts is missing; {path} says which experts, and not how many there are")
        routing = read_routing(path, given["experts"])
        sizes = {"tokens": routing.tokens, "topk": given.get("topk", routing.topk)}
        problem = self.shape(model, None, sizes | dict(options))
        try:
            return replace(problem, routing=routing)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def suggested(self, problem: Any, machine: Machine, **fixed: Any) -> Any:
        """Return knobs that suit a problem: the first candidates whose program fits the machine, or else the first.

        Of a kernel without candidates these are its defaults, and what is smaller. Those that are `fixed` stay.
        """
        first, most = None, ""
        for found in self.candidates(problem, machine) if self.candidates else shrinking(self.Knobs()):
            knobs = replace(found, **fixed)
            first = knobs if first is None else first
            try:
                self.compile(problem, knobs, machine, 0)
            except TooLarge as error:
                if str(error) == most:  # other knobs need as much
                    break
                most = str(error)
            except ValueError:
                continue
            else:
                return knobs
        return first


def kernel_of(name: str, description: str, module: Any, *needs: str, **more: Any) -> Kernel:
    """Return the kernel of a module that names all its parts as `Kernel` does; `more`: other fields of it."""
    made = module.Knobs, needs, module.OPTIONS, module.shape, module.canonical, module.compile, module.OPTIONAL
    return Kernel(name, description, *made, **more)


def least_size(default: int | None) -> int:
    """Return the least that a size may be: 0 where that is its default."""
    return 0 if default == 0 else 1


MAX_SIZE = 1 << 24  # assumed: a problem size beyond it is a slip
MAX_KNOB = 1 << 20  # assumed, likewise


def require_options(
    kernel: str,
    options: Mapping[str, int],
    required: Sequence[str],
    optional: Mapping[str, int] | None = None,
    given: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return the sizes of a problem: `options`, for those that are not there what a model has `given`, or defaults.

    Raises ValueError unless `options` are all of `required` and some of `optional`, in 1 to MAX_SIZE or, where the
    default is 0, from 0.
    """
    optional = optional or {}
    allowed = (*required, *optional)
    for name in options:
        if name not in allowed:
            known = nearest_first(name, allowed) or "the sizes of the model and the batch"
            raise ValueError(f"options: kernel {kernel} takes no size {name!r}; it takes {known}")
    options = {name: size for name, size in (given or {}).items() if name in allowed} | dict(options)
    for name in required:
        if name not in options:
            other = "" if given is None else ", or a model that has them"
            raise ValueError(f"options: size {name} is missing; kernel {kernel} needs {', '.join(required)}{other}")
    found = {name: options.get(name, optional.get(name, 0)) for name in allowed}
    for name, value in found.items():
        low = least_size(optional.get(name))
        if type(value) is not int or not low <= value <= MAX_SIZE:
            raise ValueError(f"options: size {name} is {value!r}; allowed: an integer from {low} to {MAX_SIZE}")
    return found


def named_option(options: Mapping[str, Any], name: str, choices: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the one of `choices` that the option `name` gives, the first by default, and the other options.

    Raises ValueError for another value.
    """
    value = options.get(name, choices[0])
    if value not in choices:
        raise ValueError(f"options: unknown {name} {value!r}; known: {nearest_first(str(value), choices)}")
    return value, {key: size for key, size in options.items() if key != name}


LEAST_TILES = (16, 4)  # assumed: of matrix units at their rate, and what may be better than not to fit


def shrinking(*given: Any) -> Iterator[Any]:
    """Yield each of some knobs, then with fewer stages, down to 2, then with tiles halved, then with 1 stage.

    Of tiles the largest are halved first, down to 16, only after all of these to 4; those of 16 and less from the start
    to 1.
    """
    yield from dict.fromkeys(small for least in LEAST_TILES for knobs in given for small in _shrunk(knobs, least))


def _shrunk(knobs: Any, least_tile: int) -> Iterator[Any]:
    yield knobs
    sizes = {f.name: getattr(knobs, f.name) for f in fields(knobs) if "tile" in f.name or f.name == "chunk"}
    least = {name: least_tile if size > LEAST_TILES[0] else 1 for name, size in sizes.items()}
    stages = getattr(knobs, "stages", 2)
    while stages > 2:
        stages -= 1
        yield replace(knobs, stages=stages)
    knobs = replace(knobs, stages=stages) if hasattr(knobs, "stages") else knobs
    while any(sizes[name] > least[name] for name in sizes):
        name = max((name for name in sizes if sizes[name] > least[name]), key=lambda name: sizes[name])
        sizes[name] //= 2
        yield replace(knobs, **sizes)
    if any(f.name == "stages" and f.metadata["least"] == 1 for f in fields(knobs)):
        yield replace(knobs, **sizes, stages=1)


def knob(default: Any, meaning: str, *, least: int | None = None, choices: Sequence[str] = (), axes: str = "") -> Any:
    """Return the field of a knob: its default, its meaning in a line, and which values it takes.

    These are one of: integers from `least`, the names in `choices`, layouts of the `axes`.
    """
    if least is not None:
        allowed = f"an integer from {least} to {MAX_KNOB}"
    else:
        allowed = f"a layout of the axes {axes}" if axes else ", ".join(choices)
    facts = {"meaning": meaning, "allowed": allowed, "least": least, "choices": choices}
    return field(default=default, metadata=facts)


def check_knobs(knobs: Any) -> None:
    """Raise ValueError naming the first knob whose number or name is not allowed; layouts are checked when read."""
    for entry in fields(knobs):
        value, least, choices = getattr(knobs, entry.name), entry.metadata["least"], entry.metadata["choices"]
        if least is not None and (type(value) is not int or not least <= value <= MAX_KNOB):
            raise ValueError(f"{entry.name}: {value!r}; allowed: {entry.metadata['allowed']}")
        if choices and value not in choices:
            raise ValueError(f"{entry.name}: unknown {value!r}; known: {nearest_first(str(value), choices)}")


def knob_layout(knobs: Any, name: str, sizes: Mapping[str, int]) -> NamedLayout:
    """Return the layout that the knob `name` writes, for axes of these sizes. Raises ValueError naming the knob."""
    try:
        return named(getattr(knobs, name), sizes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def require_16_bit(kernel: str, dtype: str) -> str:
    """Return `dtype`; raise ValueError unless it has 16 bits, the only width whose matrix rate machines describe."""
    if dtype not in ("bf16", "fp16"):
        raise ValueError(f"kernel {kernel}: dtype {dtype!r} is not modelled; allowed: bf16, fp16")
    return dtype
