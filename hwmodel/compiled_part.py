"""Functions that only compiled code calls: typed and lowered by numba, optimised where they are linked in.

`compiled` makes the entries that Python calls and that are kept on disk. numba would optimise each function that an
entry calls by itself, turn it into machine code, and do both once more in every function on the way up to the entry.
A part is nothing but simplified LLVM code until LLVM works on the entry as a whole, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import _dynfunc, njit  # type: ignore[attr-defined]
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import IRLegalization, NativeLowering, NoPythonBackend, NoPythonSupportedFeatureValidation

_njit: Any = njit
_unliteral: Any = types.unliteral
_new_pass_manager: Any = PassManager


class _Library(JITCodeLibrary):
    """LLVM code for others to link: that of a part and of those it calls, without machine code."""

    def finalize(self) -> None:
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)  # type: ignore[no-untyped-call]
class _Lowering(NativeLowering):
    """numba's lowering, into such a library; what stands for the machine code is never called."""

    _name = "lowering_of_a_part"

    def run_pass(self, state: Any) -> bool:
        new_library: Any = _Library
        linked = new_library(state.targetctx.codegen(), state.func_id.func_qualname)
        state["library"] = linked
        state.flags.no_compile = True
        super().run_pass(state)  # type: ignore[no-untyped-call]
        described = state.cr.fndesc
        name, kept = described.qualname.split(".")[-1], (linked,)
        stand_in = _dynfunc.make_function(described.lookup_module(), name, "", 0, state.cr.env, kept)
        state.targetctx.insert_user_function(stand_in, described, [linked])
        state.cr = state.cr._replace(cfunc=stand_in)
        return True


class _Compiler(CompilerBase):
    """numba's pipeline with that lowering, and without the notes on types that are kept with code on disk."""

    def define_pipelines(self) -> list[Any]:
        passes = _new_pass_manager("part")
        for half in (DefaultPassBuilder.define_untyped_pipeline, DefaultPassBuilder.define_typed_pipeline):
            passes.passes.extend(half(self.state).passes)  # type: ignore[no-untyped-call]
        for one in (NoPythonSupportedFeatureValidation, IRLegalization, _Lowering, NoPythonBackend):
            passes.add_pass(one)
        passes.finalize()
        return [passes]


def part(function: Callable[..., Any], *, forceinline: bool) -> Any:
    """Return the function as compiled code takes it; `forceinline` puts its code wherever it is called.

    A constant among the arguments counts as any number of its type: to compile for each is left to LLVM, which does
    so where the code is put.
    """
    options = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": forceinline}
    made = _njit(pipeline_class=_Compiler, **options)(function)
    template = made.get_call_template
    made.get_call_template = lambda arguments, by_name: template(
        [_unliteral(one) for one in arguments], {name: _unliteral(one) for name, one in by_name.items()}
    )
    return made
