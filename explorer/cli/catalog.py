"""The commands that list what there is and describe one: `kernels`, `machines` and `models`."""

from __future__ import annotations

from typing import Annotated

import typer

from explorer.cli.options import warn
from explorer.text.json_text import Json, print_json


def kernels(
    name: Annotated[str | None, typer.Argument(help="One kernel, by name.")] = None,
    as_json: Json = False,
) -> None:
    """List the kernels by family, or describe one. What its sizes and knobs mean."""
    from explorer import catalog
    from explorer.text import tables

    if name is not None:
        facts = catalog.describe_kernel(name)
        print_json(facts) if as_json else print(tables.kernel_text(facts))
        return
    print_json(catalog.list_kernels()) if as_json else print(tables.kernel_list(catalog.kernel_families()))


def machines(
    name: Annotated[str | None, typer.Argument(help="One machine, by name or YAML file.")] = None,
    as_json: Json = False,
) -> None:
    """List the machines, or describe one."""
    from explorer import catalog
    from explorer.text import tables

    if name is not None:
        facts = catalog.describe_machine(name)
        print_json(facts) if as_json else print(tables.sourced_text(facts, catalog.machine_units()))
        return
    listed = catalog.list_machines()
    print_json(listed) if as_json else print(
        tables.align([(name, str(facts["description"])) for name, facts in listed.items()])
    )


def models(
    name: Annotated[str | None, typer.Argument(help="One model, by name or config.json.")] = None,
    kv_dtype: Annotated[
        str | None,
        typer.Option(help="Type of the cache: bf16, fp16, fp32, fp8_e4m3, fp8_e5m2.  [default: the model's]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models, or describe one. Its layers by kind, parameters, cache and state."""
    from explorer.text import model as model_view

    if name is not None:
        facts = model_view.describe_model(name, kv_dtype)
        warn(name)
        print_json(facts) if as_json else print(model_view.model_text(facts))
        return
    if kv_dtype is not None:
        raise ValueError("--kv-dtype: give the model, too")
    listed = model_view.list_models()
    print_json(listed) if as_json else print(model_view.list_text(listed))
