"""The contract of common/protocol.py in PyTorch: eager, a fused optimizer, everything on the device."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int, Real, UInt8
from torch import Tensor

from backends.pytorch import optimizers
from backends.pytorch.shapes import checked
from backends.pytorch.vae import VAE, log_weights, objective
from common.config import Device, Dtype, Factors, Model, Optimizer, Precision, Training
from common.errors import UserError
from common.noise import NOISE_BLOCK, noise_blocks, seed_for
from common.parameters import State, group, shapes
from common.protocol import Description

EXPORT_SUFFIX = ".safetensors"


def describe() -> Description:
    devices = {"cpu": platform.machine()}
    if torch.cuda.is_available():
        devices["cuda"] = torch.cuda.get_device_name()
    return Description(versions={"torch": version("torch")}, devices=devices, unavailable=None)


def programs_compiled() -> int | None:
    """None: it is eager."""
    return None


def select(device: Device) -> torch.device:
    """The device, with TF32 off. Raises `UserError` where it isn't there."""
    if device not in describe().devices:
        raise UserError(f"PyTorch has no device '{device}' here; use --device cpu, or install environments/pytorch-cuda.txt.")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    return torch.device(device)


def portable(name: str, tensor: Tensor) -> np.ndarray:
    """A parameter (or its gradient or moment) as portable array: `nn.Linear` has its weights [out, in]."""
    array = tensor.detach().cpu().numpy()
    return (array.T if name.endswith("weight") else array).copy()


def rounding(vae: VAE, masters: dict[str, Tensor]) -> Callable[[], None]:
    """A function that sets the parameters of `vae` to their masters, rounded; where each is its own, there is nothing to do."""
    pairs = [(vae.get_parameter(name), master) for name, master in masters.items()]
    rounded = [own for own, master in pairs if own is not master]
    sources = [master for own, master in pairs if own is not master]

    @torch.no_grad()
    def round_all() -> None:
        if rounded:
            torch._foreach_copy_(rounded, sources)

    return round_all


class Session:
    def __init__(
        self,
        model: Model,
        state: State,
        *,
        optimizer: Optimizer,
        training: Training,
        device: Device,
        dtype: Dtype,
        precision: Precision,
    ):
        self.device, self.dtype = select(device), getattr(torch, dtype)
        self.model, self.settings, self.training = model, optimizer, training
        factors = self.dtype if precision == "full" else getattr(torch, precision)
        self.vae = self.judged = VAE(model, dtype=self.dtype, factors=factors).to(self.device)
        self.parameters = self._masters(self.vae, group(state, "parameters"))
        self.round_parameters = rounding(self.vae, self.parameters)
        self.round_parameters()
        self.differentiated = [self.vae.get_parameter(name) for name in self.parameters]
        self.ema: dict[str, Tensor] = {}
        if training.ema_decay:
            self.judged = VAE(model, dtype=self.dtype, factors=factors).to(self.device)
            self.ema = self._masters(self.judged, group(state, "ema"))
        self.round_ema = rounding(self.judged, self.ema)
        self.round_ema()
        self.step = int(state["step"])
        self.optimizer = optimizers.create(self.parameters, optimizer)
        moments = {name: self._own(name, value) for name, value in group(state, "optimizer").items()}
        optimizers.load_moments(self.optimizer, self.parameters, moments, self.step, optimizer)
        self.generator = torch.Generator(self.device)

    def _masters(self, vae: VAE, values: State) -> dict[str, Tensor]:
        """The parameters of `vae`, set to these values; where they are of less precision, what they are rounded from."""
        masters = {}
        for name in shapes(self.model):
            own = vae.get_parameter(name)
            masters[name] = own if own.dtype == self.dtype else torch.empty_like(own, dtype=self.dtype)
            masters[name].data.copy_(self._own(name, values[name]))
        return masters

    def _own(self, name: str, value: np.ndarray) -> Tensor:
        """The inverse of `portable`."""
        array = value.T if name.endswith("weight") else value
        return torch.tensor(np.ascontiguousarray(array), dtype=self.dtype, device=self.device)

    def _images(self, handle: Tensor, indices: np.ndarray) -> Tensor:
        return handle.index_select(0, torch.as_tensor(indices, device=self.device)).to(self.dtype)

    def _normal(self, shape: tuple[int, ...], *seed: Any) -> Tensor:
        self.generator.manual_seed(seed_for(*seed))
        return torch.randn(shape, generator=self.generator, dtype=self.dtype, device=self.device)

    @checked
    def place(self, images: UInt8[np.ndarray, "images pixels"]) -> UInt8[Tensor, "images pixels"]:
        return torch.tensor(images, device=self.device)

    @checked
    def train(
        self,
        handle: UInt8[Tensor, "images pixels"],
        indices: Int[np.ndarray, "steps batch"],
        *,
        first_step: int,
        learning_rates: Float[np.ndarray, "steps"],
        kl_weights: Float[np.ndarray, "steps"],
        seed: int,
        noise: Float[np.ndarray, "steps samples batch latent"] | None,
    ) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
        steps, batch = indices.shape
        rows = torch.as_tensor(indices, device=self.device)
        shape = (self.training.objective_samples, batch, self.model.latent_size)
        results = torch.empty(steps, 2, dtype=self.dtype, device=self.device)
        for t in range(steps):
            x = handle.index_select(0, rows[t]).to(self.dtype)
            if noise is None:
                epsilon = self._normal(shape, seed, "training noise", first_step + t)
            else:
                epsilon = torch.as_tensor(noise[t], dtype=self.dtype, device=self.device)
            quantities = self.vae(x, epsilon)
            value = objective(log_weights(quantities, float(kl_weights[t])))
            gradients = torch.autograd.grad(-value, self.differentiated)
            for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
                parameter.grad = gradient.to(self.dtype)
            self.optimizer.param_groups[0]["lr"] = float(learning_rates[t])
            self.optimizer.step()
            self.round_parameters()
            with torch.no_grad():
                if self.ema:
                    torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - self.training.ema_decay)
                results[t, 0] = value
                results[t, 1] = log_weights(quantities, 1.0).mean()
        self.round_ema()
        self.step += steps
        values = results.cpu().numpy()
        return values[:, 0], values[:, 1]

    @torch.no_grad()
    @checked
    def log_weights(
        self,
        handle: UInt8[Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        samples: range,
        seed: int,
        noise: Float[np.ndarray, "samples batch latent"] | None,
    ) -> Float[np.ndarray, "samples batch"]:
        if noise is None:
            shape = (NOISE_BLOCK, self.model.latent_size)
            epsilon = torch.stack(
                [
                    torch.cat([self._normal(shape, seed, "evaluation noise", int(i), block) for block in noise_blocks(samples)])
                    for i in indices
                ],
                dim=1,
            )[: len(samples)]
        else:
            epsilon = torch.as_tensor(noise, dtype=self.dtype, device=self.device)
        return log_weights(self.judged(self._images(handle, indices), epsilon), 1.0).cpu().numpy()

    @checked
    def inspect(
        self,
        handle: UInt8[Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        noise: Float[np.ndarray, "samples batch latent"],
        kl_weight: float,
    ) -> dict[str, np.ndarray]:
        epsilon = torch.as_tensor(noise, dtype=self.dtype, device=self.device)
        quantities = self.vae(self._images(handle, indices), epsilon)
        quantities["log_weights"] = log_weights(quantities, kl_weight)
        quantities["objective"] = objective(quantities["log_weights"])
        gradients = torch.autograd.grad(quantities["objective"], self.differentiated)
        return {name: value.detach().cpu().numpy() for name, value in quantities.items()} | {
            f"gradient/{name}": portable(name, gradient.to(self.dtype))
            for name, gradient in zip(self.parameters, gradients, strict=True)
        }

    @checked
    def gradient(
        self,
        handle: UInt8[Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        noise: Float[np.ndarray, "samples batch latent"],
        kl_weight: float,
    ) -> Callable[[int], None]:
        x, epsilon = self._images(handle, indices), torch.as_tensor(noise, dtype=self.dtype, device=self.device)

        def launch(repeats: int) -> None:
            for _ in range(repeats):
                value = objective(log_weights(self.vae(x, epsilon), kl_weight))
                torch.autograd.grad(value, self.differentiated)
            self.synchronize()

        return launch

    @torch.no_grad()
    @checked
    def encode(
        self, images: Real[np.ndarray, "batch pixels"]
    ) -> tuple[Float[np.ndarray, "batch latent"], Float[np.ndarray, "batch latent"]]:
        quantities = self.judged.encode(torch.as_tensor(images, dtype=self.dtype, device=self.device))
        return quantities["loc"].cpu().numpy(), quantities["scale"].cpu().numpy()

    @torch.no_grad()
    @checked
    def decode(self, latents: Float[np.ndarray, "batch latent"]) -> Float[np.ndarray, "batch pixels"]:
        logits = self.judged.decoder(torch.as_tensor(latents, dtype=self.dtype, device=self.device))
        return torch.sigmoid(logits).cpu().numpy()

    def export(self, file: Path) -> None:
        """The `state_dict`, of the run's own dtype, as safetensors."""
        file.write_bytes(safetensors.torch.save(dict(self.ema or self.parameters)))

    def state(self) -> State:
        return (
            {"step": np.array(self.step, dtype=np.int64)}
            | {f"parameters/{name}": portable(name, value) for name, value in self.parameters.items()}
            | {f"ema/{name}": portable(name, value) for name, value in self.ema.items()}
            | {
                f"optimizer/{name}": portable(name, value)
                for name, value in optimizers.moments(self.optimizer, self.parameters, self.settings).items()
            }
        )

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


create = Session


def probe(*, products: list[tuple[int, int, int]], device: Device, dtype: Factors) -> Callable[[int], None]:
    """See `Backend.probe`: each product writes into a buffer of its own, made beforehand."""
    where: dict[str, Any] = {"dtype": getattr(torch, dtype), "device": select(device)}
    factors = [(torch.randn(m, k, **where), torch.randn(k, n, **where), torch.empty(m, n, **where)) for m, k, n in products]

    def launch(repeats: int) -> None:
        for _ in range(repeats):
            for left, right, result in factors:
                torch.mm(left, right, out=result)
        if where["device"].type == "cuda":
            torch.cuda.synchronize()

    return launch
