from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwmodel.dram.command_trace import read_commands
from hwmodel.dram.standards import COMMANDS, standard

HBM3 = standard("HBM3").organisation
LEGACY = standard("HBM2-legacy").organisation
HEADING = "clock,command,Channel,PseudoChannel,Sid,BankGroup,Bank,Row,Column,type,source"
SHORT = "clock,command,channel,rank,bankgroup,bank,row,column"


def read(text: str, organisation: Any = HBM3, **options: Any) -> list[list[int]]:
    parts = [part.tolist() for part in read_commands(text.splitlines(), organisation, **options)]
    return [row for part in parts for row in part]


def test_a_ramulator_trace_is_read_with_stack_ids_in_the_bank_field() -> None:
    text = f"{HEADING}\n1,ACT,0,1,1,2,3,77,0,0,0\n65,RD,0,1,1,2,3,77,4,0,0\n157,PREpb,0,1,1,2,3,-1,-1,-1,-1\n"
    text += "300,PREab,0,1,-1,-1,-1,-1,-1,-1,-1\n\n353,REFab,0,1,-1,-1,-1,-1,-1,-1,-1\n"
    assert read(text) == [
        [1, 0, 1, 2, 7, 77, COMMANDS.index("ACT")],
        [65, 0, 1, 2, 7, 77, COMMANDS.index("RD")],
        [157, 0, 1, 2, 7, -1, COMMANDS.index("PRE")],
        [300, 0, 1, -1, -1, -1, COMMANDS.index("PREab")],
        [353, 0, 1, -1, -1, -1, COMMANDS.index("REFab")],
    ]


def test_a_dramsim3_trace_is_read_with_its_own_words_and_its_missing_channel() -> None:
    words = [("activate", "ACT"), ("read", "RD"), ("write", "WR"), ("precharge", "PRE"), ("refresh_bank", "REFpb")]
    text = SHORT + "\n" + "".join(f"{i},{word},0,0,3,2,81,5\n" for i, (word, _) in enumerate(words))
    text += "9,precharge,-1,0,2,1,-1,-1\n20,refresh,-1,0,-1,-1,-1,-1\n"
    rows = read(text, LEGACY)
    assert rows[:5] == [[i, 0, 0, 3, 2, 81, COMMANDS.index(name)] for i, (_, name) in enumerate(words)]
    assert rows[5:] == [[9, 0, 0, 2, 1, -1, COMMANDS.index("PRE")], [20, 0, 0, -1, -1, -1, COMMANDS.index("REFab")]]


@pytest.mark.parametrize(("lines", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4])])
def test_a_trace_comes_in_parts_of_the_size_asked_for(lines: int, sizes: list[int]) -> None:
    text = [SHORT, *(f"{i},read,0,0,0,0,1,0" for i in range(lines))]
    parts = list(read_commands(text, LEGACY, chunk=4))
    assert [len(part) for part in parts] == sizes
    assert all(part.dtype == np.int64 and part.shape[1] == 7 for part in parts)
    assert [row[0] for part in parts for row in part.tolist()] == list(range(lines))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: '': no column for tick"),
        ("clock,command,channel,bank,row", "line 1: .*: no column for bank_group; known: clock, command"),
        (f"{SHORT}\n1,reed,0,0,0,0,0,0", "line 2: unknown command 'reed'; known: read, "),
        (f"{SHORT}\n1,read,0,0,0,0,0,0\n2,read,0,0,0,zero,0,0", "line 3: bank 'zero' is no integer"),
        (f"{SHORT}\n1,read,0,0", "line 2: 4 columns, fewer than in the heading"),
        (f"{SHORT},clock\n", "line 1: .*: tick stands twice, the second time as 'clock'"),
        (f"{SHORT},PseudoChannel\n", "pseudo_channel stands twice, the second time as 'pseudochannel'"),
        (f"{SHORT}\n-1,read,0,0,0,0,0,0", "line 2: tick -1; allowed: 0 .. "),
        (f"{SHORT}\n1,read,0,2,0,0,0,0", "line 2: pseudo_channel 2; allowed: 0 .. 1"),
        (f"{SHORT}\n1,read,0,0,4,0,0,0", "line 2: bank_group 4; allowed: 0 .. 3"),
        (f"{SHORT}\n1,read,0,0,0,-1,0,0", "line 2: bank -1; allowed: 0 .. 3"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_with_its_number(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read(text)


@pytest.mark.parametrize(("stack_id", "bank", "problem"), [(2, 0, "stack_id 2; allowed"), (0, 4, "bank 4; allowed")])
def test_a_bank_is_one_of_its_group_and_stack_id(stack_id: int, bank: int, problem: str) -> None:
    with pytest.raises(ValueError, match=f"line 2: {problem}"):
        read(f"{HEADING}\n1,ACT,0,1,{stack_id},2,{bank},77,0,0,0\n")
