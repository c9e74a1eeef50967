from __future__ import annotations

from typing import Any

import pytest

from hwmodel.dram.policy import Policy


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"refresh": "perbank"}, "policy.refresh: unknown 'perbank'; known: per-bank"),
        ({"read_queue": 0}, "policy.read_queue: 0"),
        ({"write_low": 0.9}, "write_low 0.9"),
        ({"hit_streak": 0}, "policy.hit_streak: 0"),
        ({"bank_queue": 33}, r"policy.bank_queue: 33 is outside 1 \.\. 32"),
        ({"write_high": float("nan")}, "write_high nan"),
        ({"row_policy": "timeout"}, "policy.timeout_ticks: 0 with row policy 'timeout'"),
        ({"timeout_ticks": 5}, "policy.timeout_ticks: 5 with row policy 'open'"),
        ({"scheduler": "per-bank-queues"}, "policy.refresh: 'per-bank' does not go with per-bank queues"),
        ({"scheduler": "per-bank-queues", "refresh": "none", "row_policy": "closed"}, "policy.row_policy: 'closed'"),
    ],
)
def test_a_policy_out_of_range_is_refused_with_its_value(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Policy(**change)
