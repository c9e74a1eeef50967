from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.query import BatchSpec, Query
from explorer.study.settings import Settable, apply, parse, typed

DEFAULTS = {"layout": "page head", "tile": 32, "share": 0.5, "mask": True, "split_tokens": 0}
SETTABLE = Settable(DEFAULTS, {"m": 1, "window": 0, "format": "16-bit"})
QUERY = Query("m", "k", batch=BatchSpec(4, 128))
WORD = st.text("abcdefgh._ %/", min_size=1).filter(lambda s: s.strip() != "")


@given(st.dictionaries(WORD.map(str.strip), WORD.map(str.strip), min_size=1))
def test_settings_joined_with_commas_parse_back(pairs: dict[str, str]) -> None:
    assert parse(",".join(f"{path} = {value}" for path, value in pairs.items())) == tuple(pairs.items())


@pytest.mark.parametrize(
    "text", ["", "a", "a=", "=1", "a=1,", "a=1,,b=2", "a=1,a=2", "a.b=1,machine.a.b=2", "a.b=[1,2]"]
)
def test_text_that_is_no_setting_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="--set"):
        parse(text)


def test_each_value_takes_the_type_of_the_knob_it_replaces() -> None:
    query = apply(QUERY, parse("tile=64,layout=head page,share=0.25,mask=false,split_tokens=0"), SETTABLE)
    assert dict(query.knobs) == {
        "tile": 64, "layout": "head page", "share": 0.25, "mask": False, "split_tokens": 0
    }  # fmt: skip


def test_batch_context_and_machine_paths_go_to_their_places() -> None:
    query = apply(QUERY, parse("batch=8,context=1024,hbm.stacks=2,machine.hbm.pin_rate=5.2 Gb/s"), SETTABLE)
    assert query.batch == BatchSpec(8, 1024)
    assert dict(query.machine_overrides) == {"hbm.stacks": "2", "hbm.pin_rate": "5.2 Gb/s"}


@pytest.mark.parametrize("options", [(), (("window", 128), ("format", "mxfp4"))])
def test_a_size_is_set_given_or_not_and_to_0_where_it_may_be(options: tuple[tuple[str, int | str], ...]) -> None:
    query = apply(replace(QUERY, options=options), parse("window=0,format=fp8"), SETTABLE)
    assert dict(query.options) == {"window": 0, "format": "fp8"}


def test_a_context_does_not_drop_a_trace_in_silence() -> None:
    traced = Query("m", "k", batch=BatchSpec(4, trace="azure-2023-conversation", trace_path="x.csv"))
    with pytest.raises(ValueError, match="--set context=64: the contexts are drawn from a trace; give --context"):
        apply(traced, parse("context=64"), SETTABLE)


def test_settings_are_shown_as_the_values_they_mean() -> None:
    shown = typed(parse("tile=64,mask=false,layout=head page,batch=8,hbm.stacks=2,hbm.pin_rate=5.2 Gb/s"), DEFAULTS)
    assert list(shown.values()) == [64, False, "head page", 8, 2, "5.2 Gb/s"]
    assert [type(value) for value in shown.values()] == [int, bool, str, int, int, str]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tyle=3", "--set tyle=3: unknown path 'tyle': did you mean 'tile'?"),
        ("tile=x", "--set tile=x: 'x' is not a whole number"),
        ("tile=1.5", "'1.5' is not a whole number"),
        ("tile=0", "--set tile=0: must be at least 1"),
        ("split_tokens=-1", "must be at least 0"),
        ("batch=0", "--set batch=0: '0' must be at least 1"),
        ("m=0", "--set m=0: '0' must be at least 1"),
        ("window=-1", "--set window=-1: '-1' must be at least 0"),
        ("windo=1", "--set windo=1: unknown path 'windo': did you mean 'window'?"),
        ("mask=2", "'2' is neither true nor false"),
    ],
)
def test_a_wrong_setting_gets_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        apply(QUERY, parse(text), SETTABLE)
