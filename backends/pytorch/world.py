"""One run on several devices: a process each, and between a step's gradient and its update one message."""

import torch
import torch.distributed
from torch import Tensor

from common.config import Device
from common.world import ALONE, World, enter, joined


def join(world: World, *, device: Device) -> None:
    """See `common.protocol.Backend`."""
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"tcp://{world.addresses[0]}",
        rank=world.rank,
        world_size=world.size,
    )
    enter(world)


def leave() -> None:
    """See `common.protocol.Backend`."""
    torch.distributed.destroy_process_group()
    enter(ALONE)


def averaged(values: list[Tensor]) -> list[Tensor]:
    """The means over the processes of these tensors, in one message."""
    flat = torch.cat([value.reshape(-1) for value in values])
    torch.distributed.all_reduce(flat)
    parts = (flat / joined().size).split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]
