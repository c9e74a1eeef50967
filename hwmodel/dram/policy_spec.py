"""A controller's policies as they stand in files: in machines (`hbm.controller`) and wherever else one is described.

The fields are those of `hwmodel.dram.policy.Policy`, which says what they mean and checks how they go together.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hwmodel.dram.policy import REFRESH_POLICIES, ROW_POLICIES, SCHEDULERS, Policy
from layouts.notation import nearest_first

Count = Annotated[int, Field(strict=True, ge=1, le=1 << 30)]
Share = Annotated[float, Field(strict=True)]


def _one_of(names: tuple[str, ...]) -> AfterValidator:
    def known(value: str) -> str:
        if value not in names:
            raise ValueError(f"known: {nearest_first(value, names)}")
        return value

    return AfterValidator(known)


class PolicySpec(BaseModel):
    """What a standard leaves to the controller; what a scheduler does not use may stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheduler: Annotated[str, _one_of(SCHEDULERS)]
    row_policy: Annotated[str, _one_of(ROW_POLICIES)]
    timeout_ticks: Annotated[int, Field(strict=True, ge=0, le=1 << 30)] = 0
    refresh: Annotated[str, _one_of(REFRESH_POLICIES)]
    read_queue: Count
    write_queue: Count
    bank_queue: Count = 8
    write_high: Share
    write_low: Share
    hit_streak: Count = 4
    merge: Annotated[bool, Field(strict=True)] = True

    def policy(self) -> Policy:
        """Return the policies. Raises ValueError where they do not go together."""
        return Policy(**self.model_dump())
