"""The contract of common/protocol.py in PyTorch: long runs compiled, on a GPU a CUDA graph a step; all on the device."""

import os
import platform
import warnings
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
from common import cache, config, tf32
from common.config import Device, Dtype, Factors, Model, Optimizer, Precision, Training, stored
from common.errors import UserError
from common.noise import NOISE_BLOCK, noise_blocks, seed_for
from common.parameters import State, group, shapes
from common.protocol import Description

# Inductor may leave out a rounding to bfloat16 where float32 follows. Here what is written is computed.
EXACTLY: Any = {"emulate_precision_casts": True}

if folder := cache.programs():
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "pytorch"))
else:
    torch.compiler.config.force_disable_caches = True
    warnings.filterwarnings("ignore", "dynamo_pgo force disabled")  # it was asked for

EXPORT_SUFFIX = ".safetensors"
# Of evaluation noise: a GPU draws a thousand images' in the time of one's, a core no more than it has to.
IMAGES_A_DRAW = {"cpu": 1, "cuda": 1000}


def describe() -> Description:
    devices = {"cpu": platform.machine()}
    if torch.cuda.is_available():
        devices["cuda"] = torch.cuda.get_device_name()
    return Description(versions={"torch": version("torch")}, devices=devices)


def programs_compiled() -> int | None:
    """None where none was asked for, or the cache is off."""
    events = torch._dynamo.utils.counters["inductor"]
    missed, given = (events[f"fxgraph_cache_{event}"] for event in ("miss", "hit"))
    return missed if missed + given else None


def select(device: Device) -> torch.device:
    """The device. Raises `UserError` where it isn't there."""
    if device not in describe().devices:
        raise UserError(f"PyTorch has no device '{device}' here; use --device cpu, or install environments/pytorch-cuda.txt.")
    return torch.device(device)


def rounded(factors: Factors) -> torch.dtype:
    """The dtype of a product's factors, TF32 switched on for its own and off for others; sums of bfloat16 stay in float32."""
    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32.settle(factors == "tf32") else "ieee"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    dtype: torch.dtype = getattr(torch, stored(factors))
    return dtype


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


def _compiled(function: Callable[..., Any], *, whole: bool) -> Callable[..., Any]:
    """The function as one program (`whole`), or as few as can be. The call that compiles raises `UserError` where it can't."""
    torch._dynamo.config.trace_autograd_ops = True  # else what is differentiated ends one program and its gradient is another
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit  # each session compiles its own
    program: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=whole, options=EXACTLY)

    def call(*inputs: Any) -> Any:
        try:
            return program(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            lines = str(error).splitlines()
            reason = next((line for line in lines if "error:" in line), lines[0])
            remedy = "let --compile-from be more than --steps."
            if lines[0].startswith(("InvalidCxxCompiler", "CppCompileError")):
                remedy = f"install a C++ compiler and Python's headers (g++, python3-dev), or {remedy}"
            raise UserError(f"PyTorch compiles long runs, and can't here ({reason}): {remedy}") from error

    return call


class _Graph:
    """A function's kernels as one CUDA graph: a call copies its inputs in, launches them all and returns the function's result.

    Python runs the function once, here, and nothing is computed then. What isn't an input stays as it was, numbers too. It must
    have run before on inputs of these shapes, since what CUDA's libraries set up at first use can't be captured.
    """

    def __init__(self, function: Callable[..., Any], *inputs: Tensor | float, device: torch.device):
        self.function = function  # kept, since its own tensors are where the kernels read and write
        self.inputs = [torch.as_tensor(value, dtype=torch.float32, device=device).clone() for value in inputs]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = function(*self.inputs)

    def __call__(self, *inputs: Tensor | float) -> Any:
        """The result is overwritten by the next call."""
        for own, value in zip(self.inputs, inputs, strict=True):
            own.copy_(value) if isinstance(value, Tensor) else own.fill_(value)  # a number goes with its kernel: no wait
        self.graph.replay()
        return self.result


def _repeated(function: Callable[[], Any], *, device: torch.device) -> Callable[[int], None]:
    """Does it `repeats` times, on a GPU by a graph, and returns when the device is idle."""
    if device.type == "cuda":
        function()
        function = _Graph(function, device=device)

    def launch(repeats: int) -> None:
        for _ in range(repeats):
            function()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return launch


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
        factors = rounded(config.factors(dtype, precision))
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
        # AdamW's kernel for a GPU reads a learning rate that isn't a number as float32: too coarse for float64.
        self.captures = self.device.type == "cuda" and self.dtype == torch.float32
        self.compiles = training.steps >= training.compile_from
        # Adam has a kernel of its own; in a graph, which Python doesn't launch, what is compiled takes less time than it.
        fused = optimizer.optimizer == "adam" and not (self.captures and self.compiles)
        self.compiles_update = self.compiles and not fused
        self.optimizer = optimizers.create(self.parameters, optimizer, fused=fused)
        moments = {name: self._own(name, value) for name, value in group(state, "optimizer").items()}
        optimizers.load_moments(self.optimizer, self.parameters, moments, self.step, optimizer)
        self.generator = torch.Generator(self.device)
        self.value_and_gradients: Callable[..., Any] = self._value_and_gradients
        self.update: Callable[[], Any] = self.optimizer.step
        if self.compiles:
            self.value_and_gradients = _compiled(self._value_and_gradients, whole=True)
        if self.compiles_update:
            self.update = _compiled(self.optimizer.step, whole=False)
        self.graphs: dict[int, _Graph] = {}

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

    def _scalar(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self.dtype, device=self.device)

    def _images(self, handle: Tensor, indices: np.ndarray) -> Tensor:
        return handle.index_select(0, torch.as_tensor(indices, device=self.device)).to(self.dtype)

    def _normal(self, shape: tuple[int, ...], seed: int) -> Tensor:
        self.generator.manual_seed(seed)
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
        # All of them before the first step: one by one between steps they take several times as long.
        seeds = [seed_for(seed, "training noise", first_step + t) for t in range(steps)]
        results = torch.empty(steps, 2, dtype=self.dtype, device=self.device)
        for t in range(steps):
            x = handle.index_select(0, rows[t]).to(self.dtype)
            if noise is None:
                epsilon = self._normal(shape, seeds[t])
            else:
                epsilon = torch.as_tensor(noise[t], dtype=self.dtype, device=self.device)
            results[t] = self._launch(x, epsilon, float(kl_weights[t]), float(learning_rates[t]))
        self.round_ema()
        self.step += steps
        values = results.cpu().numpy()
        return values[:, 0], values[:, 1]

    def _launch(self, x: Tensor, epsilon: Tensor, kl_weight: float, learning_rate: float) -> Tensor:
        """`_step`, launched from Python; on a GPU by a graph, from the second step of a batch's size on."""
        if len(x) in self.graphs:
            return self.graphs[len(x)](x, epsilon, kl_weight, learning_rate)
        # What is captured or compiled would have a number as a constant of its own.
        rate = self._scalar(learning_rate) if self.captures or self.compiles_update else learning_rate
        inputs = (x, epsilon, self._scalar(kl_weight), rate)
        result = self._step(*inputs)
        if self.captures:
            self.graphs[len(x)] = _Graph(self._step, *inputs, device=self.device)
        return result

    def _step(self, x: Tensor, epsilon: Tensor, kl_weight: Tensor, learning_rate: float | Tensor) -> Tensor:
        """One step, from images x [batch, pixels] and noise [samples, batch, latent]; objective and ELBO, [2]."""
        values, gradients = self.value_and_gradients(x, epsilon, kl_weight)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient.to(self.dtype)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.update()
        self.round_parameters()
        if self.ema:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - self.training.ema_decay)
        return values

    def _value_and_gradients(self, x: Tensor, epsilon: Tensor, kl_weight: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Objective and ELBO, [2], and the gradient of minus the objective."""
        quantities = self.vae(x, epsilon)
        value = objective(log_weights(quantities, kl_weight))
        gradients = torch.autograd.grad(-value, self.differentiated)
        return torch.stack([value.detach(), log_weights(quantities, 1.0).detach().mean()]), gradients

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
            epsilon = torch.as_tensor(noise, dtype=self.dtype, device=self.device)
        return log_weights(self.judged(self._images(handle, indices), epsilon), 1.0).cpu().numpy()

    def _evaluation_noise(self, indices: np.ndarray, seed: int, block: int) -> Tensor:
        """[NOISE_BLOCK, batch, latent]: a function of (seed, image, block), drawn for IMAGES_A_DRAW images at once."""
        images = IMAGES_A_DRAW[self.device.type]
        shape = (images, NOISE_BLOCK, self.model.latent_size)
        draws, places = np.unique(indices // images, return_inverse=True)
        normals = torch.cat([self._normal(shape, seed_for(seed, "evaluation noise", int(draw), block)) for draw in draws])
        rows = torch.as_tensor(places * images + indices % images, device=self.device)
        return normals.index_select(0, rows).transpose(0, 1)

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

        def once() -> tuple[Tensor, ...]:
            return torch.autograd.grad(objective(log_weights(self.vae(x, epsilon), kl_weight)), self.differentiated)

        return _repeated(_compiled(once, whole=True) if self.compiles else once, device=self.device)

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
    where: dict[str, Any] = {"dtype": rounded(dtype), "device": select(device)}
    factors = [(torch.randn(m, k, **where), torch.randn(k, n, **where), torch.empty(m, n, **where)) for m, k, n in products]

    def once() -> None:
        for left, right, result in factors:
            torch.mm(left, right, out=result)

    return _repeated(once, device=where["device"])


def copy(*, size: int, device: Device) -> Callable[[int], None]:
    """See `Backend.copy`."""
    source, target = (torch.zeros(size // 4, device=select(device)) for _ in range(2))
    return _repeated(lambda: torch.add(source, 1, out=target), device=source.device)


def device_peak(device: Device) -> int | None:
    """See `Backend.device_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None
