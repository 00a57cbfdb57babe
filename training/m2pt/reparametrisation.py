"""Prompts learned through a small network that is folded away in the bundle.

Prefix tuning (Li & Liang 2021) and P-tuning v2 (Liu et al. 2022) learn prompts as the output of a two-layer
MLP. Here the MLP is added to the rows it reads (the skip of residual prompt tuning, Razdaibiedina et al.
2023), its second layer begins at zero, and one MLP serves all layers of a side. So any first values stay what
they are, and a 7B model's text side costs 2·d·h + h + d values (4.2 million for h = 512) while it trains, not
L·d·h.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from prompts.deep import xavier_rms

__all__ = ["fold", "fresh_mlp"]


def fresh_mlp(hidden: int, width: int, generator: Generator) -> dict[str, Tensor]:
    """An MLP d → h → d, float32, that gives zeros: `down.weight` (h, d), `down.bias`, `up.weight`, `up.bias`.

    Args:
        hidden: d, width of a prompt row.
        width: h, width of the hidden layer.
    """
    bound = 1 / math.sqrt(hidden)
    down = torch.rand(width, hidden, generator=generator).mul_(2 * bound).sub_(bound)
    return {
        "down.weight": down,
        "down.bias": torch.zeros(width),
        "up.weight": torch.zeros(hidden, width),
        "up.bias": torch.zeros(hidden),
    }


def fold(rows: Tensor, mlp: dict[str, Tensor]) -> Tensor:
    """The prompts (L, P, d) that rows (L, P, d) and their MLP come to: rows + s · MLP(rows / s).

    s is the root mean square of a xavier row, so that the MLP sees and gives values around one.
    """
    scale = xavier_rms(rows.shape[1], rows.shape[2])
    hidden = torch.tanh(F.linear(rows / scale, mlp["down.weight"], mlp["down.bias"]))
    return rows + scale * F.linear(hidden, mlp["up.weight"], mlp["up.bias"])
