"""The learning rate over a job: linear warm-up, then a cosine to zero."""

import math

__all__ = ["cosine_rate"]


def cosine_rate(step: int, *, steps: int, warmup: float) -> float:
    """Share of the peak rate at `step` (from 0); `warmup` is the share of steps that rise."""
    rising = math.ceil(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
