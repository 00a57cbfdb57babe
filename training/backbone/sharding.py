"""A frozen language model shared out over processes (FSDP2): each keeps a part of every decoder layer.

A layer is gathered when it is computed, on the way there and back, and let go after. What is outside of the
layers (embedding, output layer, tower, projector) stays whole in each process: it is small beside them, and
the tower is not run where a process's examples have no picture, while the others would wait for its part.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

__all__ = ["share_out"]


def share_out(model: Any, device: torch.device) -> None:
    """Leaves this process its part of the decoder layers of `model`, on `device`; frozen, dtype as loaded.

    All processes of the group call it, and from then on run the same number of passes.
    """
    model.requires_grad_(False)
    decoder = model.get_decoder()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    outside = {weight for name, weight in decoder.named_parameters() if not name.startswith("layers.")}
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True, ignored_params=outside)
