"""The update rules of common/config.py, and the way between an optimizer and the portable state's moments."""

from collections.abc import Iterable

import torch
from torch import Tensor

from backends.pytorch.shapes import Quantities, checked
from common import config


class RMSprop(torch.optim.Optimizer):
    """g/(√v + ε) or, as `torch.optim.RMSprop` cannot, g/√(v + ε); centered: v − m² in place of v. Decoupled weight decay."""

    def __init__(self, parameters: Iterable[Tensor], settings: config.Optimizer):
        super().__init__(parameters, {"lr": settings.learning_rate})
        self.settings = settings

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        decay, epsilon = self.settings.rmsprop_decay, self.settings.rmsprop_epsilon
        for group in self.param_groups:
            lr, parameters = group["lr"], group["params"]
            gradients = [p.grad for p in parameters]
            second = [self.state[p]["second_moment"] for p in parameters]
            torch._foreach_mul_(second, decay)
            torch._foreach_addcmul_(second, gradients, gradients, 1 - decay)
            v = second
            if self.settings.rmsprop_centered:
                first = [self.state[p]["first_moment"] for p in parameters]
                torch._foreach_lerp_(first, gradients, 1 - decay)
                v = torch._foreach_addcmul(second, first, first, -1)
            if self.settings.rmsprop_epsilon_in_root:
                root = torch._foreach_add(v, epsilon)
                torch._foreach_sqrt_(root)
            else:
                root = torch._foreach_sqrt(v)
                torch._foreach_add_(root, epsilon)
            if self.settings.weight_decay:
                torch._foreach_mul_(parameters, 1 - lr * self.settings.weight_decay)
            torch._foreach_addcdiv_(parameters, gradients, root, -lr)


@checked
def create(parameters: Quantities, settings: config.Optimizer) -> torch.optim.Optimizer:
    """The optimizer of these parameters (name → tensor)."""
    if settings.optimizer == "rmsprop":
        return RMSprop(parameters.values(), settings)
    return torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


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
