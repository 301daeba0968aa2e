"""The update rules of common/config.py, and the moments of the portable state in and out of an optimizer."""

from typing import Any

import torch

from backends.pytorch.shapes import Quantities, checked
from common import config
from common.parameters import decays


class RMSprop(torch.optim.Optimizer):
    """g/(√v + ε) or g/√(v + ε), which `torch.optim.RMSprop` lacks; centered: v − m² in place of v. Decoupled weight decay."""

    def __init__(self, groups: list[dict[str, Any]], settings: config.Optimizer):
        super().__init__(groups, {"lr": settings.learning_rate})
        self.settings = settings

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        decay, epsilon = self.settings.rmsprop_decay, self.settings.rmsprop_epsilon
        for group in self.param_groups:
            lr = group["lr"]
            for parameter in group["params"]:  # one by one, so that each operation finds the parameter in the processor's cache
                gradient, state = parameter.grad, self.state[parameter]
                second = state["second_moment"].mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
                if self.settings.rmsprop_centered:
                    first = state["first_moment"].lerp_(gradient, 1 - decay)
                    v = second.addcmul(first, first, value=-1)
                else:
                    v = second.clone()
                root = v.add_(epsilon).sqrt_() if self.settings.rmsprop_epsilon_in_root else v.sqrt_().add_(epsilon)
                if group["weight_decay"]:
                    parameter.mul_(1 - lr * group["weight_decay"])
                # In a graph the rate is a tensor, which addcdiv's `value` can't be.
                parameter.addcdiv_(gradient, root.div_(-lr))


@checked
def create(settings: config.Optimizer, parameters: Quantities, *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of these parameters (name → tensor), Adam by PyTorch's own kernel (`fused`) or by single operations."""
    by_decay: dict[float, list[torch.Tensor]] = {}
    for name, value in parameters.items():
        by_decay.setdefault(settings.weight_decay if decays(name, settings) else 0.0, []).append(value)
    groups: list[dict[str, Any]] = [{"params": values, "weight_decay": decay} for decay, values in by_decay.items()]
    if settings.optimizer == "rmsprop":
        return RMSprop(groups, settings)
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=fused,
        foreach=not fused,
        capturable=any(parameter.is_cuda for parameter in parameters.values()),
    )


@checked
def clipped(gradients: Quantities, settings: config.Optimizer) -> Quantities:
    """g·clip/max(‖g‖, clip), ‖g‖ the norm of all gradients together; g itself where `clip` is 0 (Pascanu et al. 2013)."""
    if not settings.clip:
        return gradients
    norm = torch.stack(torch._foreach_norm(list(gradients.values()))).norm()
    factor = settings.clip / norm.clamp(min=settings.clip)
    return {name: factor * gradient for name, gradient in gradients.items()}


MOMENTS = {
    "adam": {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"},
    "rmsprop": {"first_moment": "first_moment", "second_moment": "second_moment"},
}


@checked
def load_moments(
    optimizer: torch.optim.Optimizer,
    parameters: Quantities,
    moments: Quantities,
    step: int,
    settings: config.Optimizer,
) -> None:
    """Set the moments (`first_moment/NAME` … → tensor, of the parameter's shape) and the number of steps done."""
    for name, parameter in parameters.items():
        own = {
            own: moments[f"{portable}/{name}"]
            for portable, own in MOMENTS[settings.optimizer].items()
            if f"{portable}/{name}" in moments
        }
        if settings.optimizer == "adam":
            own["step"] = torch.tensor(float(step), device=parameter.device)
        optimizer.state[parameter] = own


@checked
def moments(optimizer: torch.optim.Optimizer, parameters: Quantities, settings: config.Optimizer) -> Quantities:
    """The inverse of `load_moments`."""
    return {
        f"{portable}/{name}": optimizer.state[parameter][own]
        for portable, own in MOMENTS[settings.optimizer].items()
        for name, parameter in parameters.items()
        if own in optimizer.state[parameter]
    }
