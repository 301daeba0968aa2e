"""The update rules of common/config.py, and the moments of the portable state in and out of an optimizer."""

from collections.abc import Iterable

import torch
from torch import Tensor

from backends.pytorch.shapes import Quantities, checked
from common import config


class RMSprop(torch.optim.Optimizer):
    """g/(√v + ε) or g/√(v + ε), which `torch.optim.RMSprop` lacks; centered: v − m² in place of v. Decoupled weight decay."""

    def __init__(self, parameters: Iterable[Tensor], settings: config.Optimizer):
        super().__init__(parameters, {"lr": settings.learning_rate})
        self.settings = settings

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        decay, epsilon = self.settings.rmsprop_decay, self.settings.rmsprop_epsilon
        for group in self.param_groups:
            lr = group["lr"]
            for parameter in group["params"]:  # one by one, so that each operation finds the parameter in the processor's cache
                gradient, moments = parameter.grad, self.state[parameter]
                second = moments["second_moment"].mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
                if self.settings.rmsprop_centered:
                    first = moments["first_moment"].lerp_(gradient, 1 - decay)
                    v = second.addcmul(first, first, value=-1)
                else:
                    v = second.clone()
                root = v.add_(epsilon).sqrt_() if self.settings.rmsprop_epsilon_in_root else v.sqrt_().add_(epsilon)
                if self.settings.weight_decay:
                    parameter.mul_(1 - lr * self.settings.weight_decay)
                parameter.addcdiv_(
                    gradient, root.div_(-lr)
                )  # in a graph the rate is a tensor, which addcdiv's `value` can't be


@checked
def create(parameters: Quantities, settings: config.Optimizer, *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of these parameters (name → tensor), Adam by PyTorch's own kernel (`fused`) or by single operations."""
    if settings.optimizer == "rmsprop":
        return RMSprop(parameters.values(), settings)
    return torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=fused,
        foreach=not fused,
        capturable=any(parameter.is_cuda for parameter in parameters.values()),
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
