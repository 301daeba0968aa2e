"""The contract of common/protocol.py in PyTorch: long runs are compiled, and on a GPU each step is one CUDA graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int, Real, UInt8
from torch import Tensor

from backends.pytorch import compiling, devices, layout, optimizers, world
from backends.pytorch.graphs import Graph
from backends.pytorch.shapes import checked
from backends.pytorch.vae import VAE, log_weights, objective
from common.config import Config
from common.noise import EVALUATION_NOISE, NOISE_BLOCK, TRAINING_NOISE, noise_blocks, seed_for
from common.parameters import State, axes, group, noise_size, refuse_unlike
from common.world import of_session

EXPORT_SUFFIX = ".safetensors"
# Images whose evaluation noise is drawn at once: a GPU draws for a thousand in the time of one, a core doesn't.
IMAGES_A_DRAW = {"cpu": 1, "cuda": 1000}


class Scorer:
    """See `common.protocol.Scorer`.

    Where the network computes in less precision than the dtype, its parameters are rounded copies of `parameters`.
    """

    def __init__(self, config: Config, parameters: State):
        self.config, self.model = config, config.model
        self.device, self.dtype = devices.select(config.device), getattr(torch, config.dtype)
        self.factors = devices.rounded(config.factors)
        self.axes = axes(config.model)
        self.vae, self.parameters, self.round_parameters = self._network(parameters)
        self.judged, self.judged_parameters = self.vae, self.parameters
        self.differentiated = [self.vae.get_parameter(name) for name in self.parameters]
        self.generator = torch.Generator(self.device)

    def _network(self, values: State) -> tuple[VAE, dict[str, Tensor], Callable[[], None]]:
        """A network with these parameters, the parameters in the dtype, and a function that rounds them into the network's."""
        vae = VAE(self.model, dtype=self.dtype, factors=self.factors).to(self.device)
        refuse_unlike((name for name, _ in vae.named_parameters()), self.model)
        networks = {name: vae.get_parameter(name) for name in self.axes}
        parameters = {
            name: own if own.dtype == self.dtype else torch.empty_like(own, dtype=self.dtype) for name, own in networks.items()
        }
        for name, parameter in parameters.items():
            parameter.data.copy_(self._own(name, values[name]))
        rounded = [own for name, own in networks.items() if own is not parameters[name]]
        sources = [parameters[name] for name, own in networks.items() if own is not parameters[name]]

        @torch.no_grad()
        def round_all() -> None:
            if rounded:
                torch._foreach_copy_(rounded, sources)

        round_all()
        return vae, parameters, round_all

    def _own(self, name: str, value: np.ndarray) -> Tensor:
        """A portable array of this parameter as a tensor on the device."""
        return torch.tensor(layout.own(value, self.axes[name]), dtype=self.dtype, device=self.device)

    def _portable(self, name: str, tensor: Tensor) -> np.ndarray:
        """The inverse of `_own`."""
        return layout.portable(tensor, self.axes[name])

    def images(self, handle: Tensor, indices: np.ndarray) -> Tensor:
        """[batch, pixels], in the dtype."""
        return handle.index_select(0, torch.as_tensor(indices, device=self.device)).to(self.dtype)

    def given(self, values: np.ndarray) -> Tensor:
        """Given numbers on the device, in the dtype."""
        return torch.as_tensor(values, dtype=self.dtype, device=self.device)

    def _normal(self, shape: tuple[int, ...], seed: int) -> Tensor:
        self.generator.manual_seed(seed)
        return torch.randn(shape, generator=self.generator, dtype=self.dtype, device=self.device)

    @checked
    def place(self, images: UInt8[np.ndarray, "images pixels"]) -> UInt8[Tensor, "images pixels"]:
        return torch.tensor(images, device=self.device)

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
            blocks = [self._evaluation_noise(indices, seed, block) for block in noise_blocks(samples)]
            epsilon = torch.cat(blocks)[: len(samples)]
        else:
            epsilon = self.given(noise)
        return log_weights(self.judged(self.images(handle, indices), epsilon), 1.0).cpu().numpy()

    def _evaluation_noise(self, indices: np.ndarray, seed: int, block: int) -> Tensor:
        """[NOISE_BLOCK, batch, latent]: a function of (seed, image, block), drawn for IMAGES_A_DRAW images at once."""
        images = IMAGES_A_DRAW[self.device.type]
        shape = (images, NOISE_BLOCK, self.model.latent_size)
        draws, places = np.unique(indices // images, return_inverse=True)
        normals = torch.cat([self._normal(shape, seed_for(seed, EVALUATION_NOISE, int(draw), block)) for draw in draws])
        rows = torch.as_tensor(places * images + indices % images, device=self.device)
        return normals.index_select(0, rows).transpose(0, 1)

    @torch.no_grad()
    @checked
    def outputs(
        self, handle: UInt8[Tensor, "images pixels"], indices: Int[np.ndarray, "batch"]
    ) -> Float[np.ndarray, "batch outputs"]:
        return self.judged.encoder(self.images(handle, indices), {}).cpu().numpy()

    @checked
    def slopes(
        self,
        handle: UInt8[Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        outputs: Float[np.ndarray, "batch outputs"],
        noise: Float[np.ndarray, "samples batch latent"],
    ) -> tuple[
        Float[np.ndarray, "samples batch"], Float[np.ndarray, "samples batch latent"], Float[np.ndarray, "batch outputs"]
    ]:
        inputs = self.given(outputs).requires_grad_(), self.given(noise).requires_grad_()
        quantities = self.judged.draw(self.judged.moments(inputs[0]), inputs[1])
        log_w = log_weights(quantities | self.judged.joint(self.images(handle, indices), quantities["z"], {}), 1.0)
        by_outputs, by_noise = torch.autograd.grad(log_w.sum(), inputs)
        return log_w.detach().cpu().numpy(), by_noise.cpu().numpy(), by_outputs.cpu().numpy()

    @checked
    def inspect(
        self,
        handle: UInt8[Tensor, "images pixels"],
        indices: Int[np.ndarray, "batch"],
        *,
        noise: Float[np.ndarray, "samples batch draws"],
        kl_weight: float,
    ) -> dict[str, np.ndarray]:
        quantities = self.vae(self.images(handle, indices), self.given(noise))
        quantities["log_weights"] = log_weights(quantities, kl_weight)
        quantities["objective"] = objective(quantities["log_weights"])
        gradients = torch.autograd.grad(quantities["objective"], self.differentiated)
        return {name: value.detach().cpu().numpy() for name, value in quantities.items()} | {
            f"gradient/{name}": self._portable(name, gradient.to(self.dtype))
            for name, gradient in zip(self.parameters, gradients, strict=True)
        }

    @torch.no_grad()
    @checked
    def encode(
        self, images: Real[np.ndarray, "batch pixels"], noise: Float[np.ndarray, "samples batch latent"]
    ) -> Float[np.ndarray, "samples batch latent"]:
        return self.judged.posterior(self.given(images), self.given(noise), {})["z"].cpu().numpy()

    @torch.no_grad()
    @checked
    def noise_of(
        self, images: Real[np.ndarray, "batch pixels"], latents: Float[np.ndarray, "samples batch latent"]
    ) -> Float[np.ndarray, "samples batch latent"]:
        return self.judged.posterior_noise(self.given(images), self.given(latents)).cpu().numpy()

    @torch.no_grad()
    @checked
    def prior(self, noise: Float[np.ndarray, "batch latent"]) -> Float[np.ndarray, "batch latent"]:
        return self.judged.prior_sample(self.given(noise)).cpu().numpy()

    @torch.no_grad()
    @checked
    def decode(self, latents: Float[np.ndarray, "batch latent"]) -> Float[np.ndarray, "batch pixels"]:
        return torch.sigmoid(self.judged.decoder(self.given(latents), {})).cpu().numpy()

    def export(self, file: Path) -> None:
        """The `state_dict`, in the config's dtype, as safetensors."""
        file.write_bytes(safetensors.torch.save(dict(self.judged_parameters)))

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Session(Scorer):
    """See `common.protocol.Session`."""

    def __init__(self, config: Config, state: State):
        super().__init__(config, group(state, "parameters"))
        self.training = config.training
        self.world = of_session(self.training.devices)
        self.ema: dict[str, Tensor] = {}
        if self.training.ema_decay:
            self.judged, self.ema, self.round_ema = self._network(group(state, "ema"))
            self.judged_parameters = self.ema
        self.step = int(state["step"])
        # AdamW's kernel for a GPU reads a learning rate that is a tensor as float32: too coarse for float64.
        # A message between processes isn't recorded in a graph.
        self.captures = self.device.type == "cuda" and self.dtype == torch.float32 and self.world.size == 1
        self.compiles = self.training.steps >= self.training.compile_from
        # Adam has a kernel of its own. In a graph, which isn't launched from Python, compiled operations take less time.
        fused = config.optimizer.optimizer == "adam" and not (self.captures and self.compiles)
        self.compiles_update = self.compiles and not fused
        self.optimizer = optimizers.create(config.optimizer, self.parameters, fused=fused)
        moments = {name: self._own(name.partition("/")[2], value) for name, value in group(state, "optimizer").items()}
        optimizers.load_moments(self.optimizer, self.parameters, moments, self.step, config.optimizer)
        self.gradients: Callable[..., Any] = self._gradients
        self.update: Callable[[], Any] = self.optimizer.step
        if self.compiles:
            self.gradients = compiling.compiled(self._gradients, fullgraph=True)
        if self.compiles_update:
            self.update = compiling.compiled(self.optimizer.step, fullgraph=False)
        self.graphs: dict[int, Graph] = {}  # batch size → the graph of `_step`

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
        noise: Float[np.ndarray, "steps samples batch draws"] | None,
    ) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
        steps, batch = indices.shape
        own = self.world.own(batch)
        rows = torch.as_tensor(indices[:, own], device=self.device)
        shape = (self.training.objective_samples, batch, noise_size(self.model))
        # All seeds before the first step: between steps each takes several times as long.
        seeds = [seed_for(seed, TRAINING_NOISE, first_step + t) for t in range(steps)]
        results = torch.empty(steps, 2, dtype=self.dtype, device=self.device)
        for t in range(steps):
            x = handle.index_select(0, rows[t]).to(self.dtype)
            epsilon = self._normal(shape, seeds[t]) if noise is None else self.given(noise[t])
            if self.world.size > 1:
                epsilon = epsilon[:, own].contiguous()
            results[t] = self._launch(x, epsilon, float(kl_weights[t]), float(learning_rates[t]))
        if self.ema:
            self.round_ema()
        self.step += steps
        values = results.cpu().numpy()
        return values[:, 0], values[:, 1]

    def _launch(self, x: Tensor, epsilon: Tensor, kl_weight: float, learning_rate: float) -> Tensor:
        """`_step`, launched from Python; on a GPU by a graph, from the second step of a batch's size on."""
        if len(x) in self.graphs:
            return self.graphs[len(x)](x, epsilon, kl_weight, learning_rate)
        # A graph or a compiled program would hold a Python number as a constant.
        rate = self._scalar(learning_rate) if self.captures or self.compiles_update else learning_rate
        inputs = (x, epsilon, self._scalar(kl_weight), rate)
        result = self._step(*inputs)
        if self.captures:
            self.graphs[len(x)] = Graph(self._step, *inputs, device=self.device)
        return result

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self.dtype, device=self.device)

    def _step(self, x: Tensor, epsilon: Tensor, kl_weight: Tensor, learning_rate: float | Tensor) -> Tensor:
        """One step, from images x [batch, pixels] and noise [samples, batch, draws]; objective and ELBO, [2]."""
        values, gradients = self.gradients(x, epsilon, kl_weight)
        # A convolution's gradient is in another order in memory than its weight, and PyTorch's fused Adam goes by memory alone.
        ordered = [gradient.to(self.dtype).contiguous() for gradient in gradients]
        if self.world.size > 1:
            values, *ordered = world.averaged([values, *ordered])
        descent = dict(zip(self.parameters, ordered, strict=True))
        for name, gradient in optimizers.clipped(descent, self.config.optimizer).items():
            self.parameters[name].grad = gradient
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate
        self.update()
        self.round_parameters()
        if self.ema:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - self.training.ema_decay)
        return values

    def _gradients(self, x: Tensor, epsilon: Tensor, kl_weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(objective and ELBO, [2], gradient of minus the objective), from images and noise [samples, batch, draws]."""
        quantities = self.vae(x, epsilon)
        value = objective(log_weights(quantities, kl_weight))
        gradients = torch.autograd.grad(-value, self.differentiated)
        return torch.stack([value.detach(), log_weights(quantities, 1.0).detach().mean()]), gradients

    def state(self) -> State:
        moments = optimizers.moments(self.optimizer, self.parameters, self.config.optimizer)
        return (
            {"step": np.array(self.step, dtype=np.int64)}
            | {f"parameters/{name}": self._portable(name, value) for name, value in self.parameters.items()}
            | {f"ema/{name}": self._portable(name, value) for name, value in self.ema.items()}
            | {f"optimizer/{name}": self._portable(name.partition("/")[2], value) for name, value in moments.items()}
        )


describe, score, create = devices.describe, Scorer, Session
join, leave = world.join, world.leave
