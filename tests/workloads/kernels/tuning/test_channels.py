"""Which channels rows of weights meet."""

from __future__ import annotations

import pytest

from hwmodel.machine import Machine
from hwmodel.spec import load_machine
from workloads.kernels.tuning.channels import Channels

NPU, H100, SRAM = (Machine(load_machine(name)) for name in ("npu-hbm3", "h100-sxm", "npu-sram"))
TURN = NPU.pseudo_channels * 128  # bytes in which each channel of this machine comes once


def test_rows_at_a_stride_that_all_channels_divide_meet_those_of_one_row() -> None:
    channels = Channels(NPU, 64, 2 * TURN)
    assert [channels.share(64, TURN // part) for part in (1, 2, 4, 128)] == [1, 1 / 2, 1 / 4, 1 / 128]


def test_rows_at_another_stride_meet_more_and_no_fewer_in_longer_runs() -> None:
    channels = Channels(NPU, 64, 5760)
    shares = [channels.share(32, run) for run in (128, 256, 512, 1024)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert shares[0] > Channels(NPU, 64, TURN).share(32, 128)


def test_parts_of_k_begin_in_channels_of_their_own() -> None:
    channels = Channels(NPU, 64, TURN)
    assert channels.share(32, 1024, 4, TURN / 4) == 4 * channels.share(32, 1024)
    assert channels.share(32, 1024, 4, TURN) == channels.share(32, 1024)


@pytest.mark.parametrize("machine", [H100, SRAM], ids=lambda machine: machine.spec.name)
def test_what_a_shared_cache_or_slices_spread_meets_all_channels(machine: Machine) -> None:
    assert Channels(machine, 64, 8192).share(32, 128) == 1


def test_rows_of_less_than_a_byte_have_a_channel() -> None:
    assert Channels(NPU, 64, 0).share(32, 0.5) > 0
