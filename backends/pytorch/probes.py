"""What PyTorch does only to be timed or counted: see `Probes` in common/protocol.py."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from backends.pytorch import compiling, dense, devices
from backends.pytorch.graphs import repeated
from backends.pytorch.resnet import convolved
from backends.pytorch.session import Session
from backends.pytorch.shapes import checked
from backends.pytorch.vae import log_weights, objective
from common.config import Device, Factors
from common.parameters import Product, factor_shapes


def products(*, products: list[Product], device: Device, dtype: Factors) -> Callable[[int], None]:
    """Each product of matrices writes into a buffer of its own, allocated beforehand, unless it goes through oneDNN."""
    where: dict[str, Any] = {"dtype": devices.rounded(dtype), "device": devices.select(device)}

    def product(sizes: Product) -> Callable[[], Tensor]:
        left, right = (torch.randn(shape, **where) for shape in factor_shapes(sizes))
        if len(sizes) == 3 and dense.through_onednn(left, transposed := right.t()):
            return lambda: dense.product(left, transposed)
        if len(sizes) == 3:
            result = torch.empty(len(left), right.shape[1], **where)
            return lambda: torch.mm(left, right, out=result)
        *_, inputs, outputs, of_weight = sizes
        if not of_weight:
            kernel = right.permute(3, 2, 0, 1).contiguous()
            return lambda: convolved(left, kernel)
        image, gradient = left.permute(0, 3, 1, 2), right.permute(0, 3, 1, 2)
        pair, weight = [1, 1], torch.empty(outputs, inputs, 3, 3, **where)
        backward = torch.ops.aten.convolution_backward
        only: Any = [False, True, False]  # of the weight
        return lambda: backward(gradient, image, weight, None, pair, pair, pair, False, [0, 0], 1, only)[1]

    calls = [product(sizes) for sizes in products]

    def once() -> None:
        for call in calls:
            call()

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

    return repeated(compiling.compiled(once, fullgraph=True) if session.compiles else once, device=session.device)


def device_peak(device: Device) -> int | None:
    """By PyTorch's own allocator."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None


def programs_compiled() -> int | None:
    """By Inductor's counters. None where it was asked for no program, or the cache is off."""
    events = torch._dynamo.utils.counters["inductor"]
    missed, hit = (events[f"fxgraph_cache_{event}"] for event in ("miss", "hit"))
    return missed if missed + hit else None


def uncompiled() -> str | None:
    """By what compiling met first."""
    return compiling.uncompiled[0] if compiling.uncompiled else None


def product_library() -> str | None:
    """By the rule of backends/pytorch/dense.py."""
    return "oneDNN" if dense.onednn else None
