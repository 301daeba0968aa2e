"""What PyTorch does only to be timed or counted: see `Probes` in common/protocol.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from backends.pytorch import compiling, devices
from backends.pytorch.graphs import repeated
from backends.pytorch.session import Session
from backends.pytorch.shapes import checked
from backends.pytorch.vae import log_weights, objective
from common.config import Device, Factors


def products(*, products: list[tuple[int, int, int]], device: Device, dtype: Factors) -> Callable[[int], None]:
    """Each product writes into a buffer of its own, allocated beforehand."""
    where: dict[str, Any] = {"dtype": devices.rounded(dtype), "device": devices.select(device)}
    factors = [(torch.randn(m, k, **where), torch.randn(k, n, **where), torch.empty(m, n, **where)) for m, k, n in products]

    def once() -> None:
        for left, right, result in factors:
            torch.mm(left, right, out=result)

    return repeated(once, device=where["device"])


def copy(*, size: int, device: Device) -> Callable[[int], None]:
    """One kernel a repeat."""
    source, target = (torch.zeros(size // 4, device=devices.select(device)) for _ in range(2))
    return repeated(lambda: torch.add(source, 1, out=target), device=source.device)


@checked
def gradient(
    session: Session,
    handle: UInt8[Tensor, "images pixels"],
    indices: Int[np.ndarray, "batch"],
    *,
    noise: Float[np.ndarray, "samples batch draws"],
    kl_weight: float,
) -> Callable[[int], None]:
    """Compiled where the session's training is, eager where it isn't."""
    x, epsilon = session.images(handle, indices), session.given(noise)

    def once() -> tuple[Tensor, ...]:
        return torch.autograd.grad(objective(log_weights(session.vae(x, epsilon), kl_weight)), session.differentiated)

    return repeated(compiling.compiled(once, whole=True) if session.compiles else once, device=session.device)


def device_peak(device: Device) -> int | None:
    """By PyTorch's own allocator."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None


def programs_compiled() -> int | None:
    """By Inductor's counters. None where it was asked for no program, or the cache is off."""
    events = torch._dynamo.utils.counters["inductor"]
    missed, hit = (events[f"fxgraph_cache_{event}"] for event in ("miss", "hit"))
    return missed if missed + hit else None
