"""What became of a bundle's canary, as the tasks API tells it."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["CanaryResult"]


@dataclass(frozen=True)
class CanaryResult:
    """`state`: the bundle has `none`; `off`: they are not asked here; `waiting`: asked when the task first
    comes to the device; `passed`; `passed_over`: it says nothing of this engine; `failed`, and
    served all the same.

    `reason`: why it was passed over, or how it failed. `difference`, `tolerance`: of logprobs, in nats, the
    largest found and the largest allowed; `inputs`: how many were asked.
    """

    state: Literal["none", "off", "waiting", "passed", "passed_over", "failed"]
    reason: str | None = None
    inputs: int | None = None
    difference: float | None = None
    tolerance: float | None = None

    @property
    def off(self) -> float | None:
        """The difference, of what it may be; None where nothing was compared."""
        if self.difference is None or self.tolerance is None:
            return None
        return self.difference / self.tolerance
