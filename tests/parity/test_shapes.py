"""Shapes are checked against their annotations, also where PyTorch, JAX and TensorFlow compile, and at no cost when off."""

import ast
import importlib
import logging
import os
import re
import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError, UInt8

from common import shapes
from common.config import Config
from common.errors import UserError
from common.protocol import BACKENDS, Session
from tests.parity.conftest import IMAGES, deviation, random_state, session, small
from tests.parity.test_mirror import FOLDER, ONE_CALL

X, NOISE = IMAGES[:20].astype(float), np.random.default_rng(2).normal(size=(3, 20, 4))
ROWS = np.arange(20, dtype=np.int32)
ARRAYS = re.compile(r"\b(tf\.Tensor|Tensor|Array)\b")
SHAPED = re.compile(r"\b(Float|Int|Real|UInt8)\[|\bQuantities\b")

# --- a step: the objective and the gradient of every parameter ---


def pytorch_step(s: Any, x: np.ndarray, noise: np.ndarray, *, compiled: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    import torch

    from backends.pytorch.vae import log_weights, objective

    def value(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return objective(log_weights(s.vae(x, noise), 0.3))

    if compiled:
        torch.compiler.reset()
        # One graph without a break, forward and backward. The default backend compiles that very graph to machine code.
        value = torch.compile(value, fullgraph=True, backend="aot_eager")
    result = value(torch.tensor(x), torch.tensor(noise))
    gradients = torch.autograd.grad(result, list(s.parameters.values()))
    return result.detach().numpy(), [g.numpy() for g in gradients]


def jax_step(s: Any, x: np.ndarray, noise: np.ndarray, *, compiled: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    import jax
    import jax.numpy as jnp

    value_and_gradients = jax.value_and_grad(lambda *arguments: s._objective(*arguments)[0])
    if compiled:
        value_and_gradients = jax.jit(value_and_gradients)
    result, gradients = value_and_gradients(s.parameters, jnp.asarray(x), jnp.asarray(noise), jnp.asarray(0.3))
    return np.asarray(result), [np.asarray(g) for g in gradients.values()]


def tensorflow_step(
    s: Any, x: np.ndarray, noise: np.ndarray, *, compiled: bool, xla: bool = True
) -> tuple[np.ndarray, list[np.ndarray]]:
    import tensorflow as tf

    from backends.tensorflow.vae import log_weights, objective

    def value_and_gradients(x: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            value = objective(log_weights(s.vae(x, noise), 0.3))
        return value, tape.gradient(value, [p.value for p in s.parameters.values()])

    if compiled:
        value_and_gradients = tf.function(value_and_gradients, jit_compile=xla)
    result, gradients = value_and_gradients(tf.constant(x), tf.constant(noise))
    return result.numpy(), [g.numpy() for g in gradients]


# PyTorch imports and compiles fastest. The ladder too runs compiled, under checks.
each_backend = pytest.mark.parametrize(
    "backend", ["pytorch", *(pytest.param(other, marks=pytest.mark.slow) for other in ("jax", "tensorflow"))]
)
STEPS = {"pytorch": pytorch_step, "jax": jax_step, "tensorflow": tensorflow_step}


def made(backend: str, family: str, **changes: object) -> tuple[Config, Session]:
    config = small(family, objective_samples=3, **changes)
    return config, session(backend, config, random_state(config))


def test_they_are_checked_here() -> None:
    assert shapes.switched_on()


@each_backend
def test_a_compiled_step_gives_the_eager_numbers(backend: str) -> None:
    """Of the flow, which has all that mean-field has."""
    _, s = made(backend, "flow")
    value, gradients = STEPS[backend](s, X, NOISE, compiled=False)
    compiled_value, compiled_gradients = STEPS[backend](s, X, NOISE, compiled=True)
    assert deviation(compiled_value, value) < 1e-12
    assert len(gradients) == len(s.parameters)
    for compiled, eager in zip(compiled_gradients, gradients, strict=True):
        assert deviation(compiled, eager) < 1e-10


def test_a_compiled_function_runs_under_checked_ones() -> None:
    """Where torch.compile traces the checks, a second depth of checked callers empties jaxtyping's stack, or compiles again."""
    import torch

    from backends.pytorch.shapes import checked

    _, s = made("pytorch", "flow")
    x, noise = torch.tensor(X), torch.tensor(NOISE)
    torch.compiler.reset()
    compiled = torch.compile(s.vae, fullgraph=True, backend="aot_eager")

    @checked
    def within(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return compiled(x, noise)["log_q"]

    @checked
    def deeper(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return within(x, noise)

    with torch._dynamo.config.patch(error_on_recompile=True):
        for function in (within, deeper, within):
            assert deviation(function(x, noise).detach().numpy(), s.vae(x, noise)["log_q"].detach().numpy()) < 1e-12


def test_autograph_leaves_the_check_alone(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would log that it can't transform it. Here without XLA, which a graph may lack."""
    logger = logging.getLogger("tensorflow")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    _, s = made("tensorflow", "flow")
    value, _ = tensorflow_step(s, X, NOISE, compiled=False)
    graph_value, _ = tensorflow_step(s, X, NOISE, compiled=True, xla=False)
    assert deviation(graph_value, value) < 1e-12
    assert not caplog.messages


# PyTorch checks nothing inside torch.compile: what is compiled is what runs without the switch.
WAYS = [(name, compiled) for name in BACKENDS for compiled in (False, True) if not (name == "pytorch" and compiled)]


@pytest.mark.parametrize(("name", "compiled"), WAYS, ids=str)
@pytest.mark.parametrize(
    ("x", "noise", "argument"),
    [
        (X, NOISE[..., :1], "noise"),  # broadcasts: without a check, all latents share their noise
        (X, NOISE[:, :1], "noise"),
        (X, NOISE[0], "noise"),
        (X[0], NOISE, "x"),
        (X.astype(int), NOISE, "x"),
    ],
    ids=["latent", "batch", "no samples", "no batch", "integers"],
)
def test_a_wrong_shape_is_named(name: str, compiled: bool, x: np.ndarray, noise: np.ndarray, argument: str) -> None:
    _, s = made(name, "mean-field")
    with pytest.raises(
        Exception, match=rf"parameters of backends\.{name}\.vae\.VAE\.\w+\.\s+.*parameter '{argument}'"
    ) as error:
        STEPS[name](s, x, noise, compiled=compiled)
    assert re.search(r"Expected type: .*\bFloat\[", str(error.value))


def test_a_wrong_result_is_named(backend: str) -> None:
    own = importlib.import_module(f"backends.{backend}.shapes")
    array = get_args(own.Quantities)[1].array_type
    _, s = made(backend, "mean-field")

    @own.checked
    def halved(images: UInt8[array, "images pixels"]) -> tuple[UInt8[array, "images pixels"], int]:
        return images[:, :6], 6

    with pytest.raises(TypeCheckError, match=r"return value of .*halved"):
        halved(s.place(IMAGES))


@pytest.mark.parametrize(
    "changes",
    [
        {"indices": ROWS},
        {"indices": ROWS[None].astype(float)},
        {"kl_weights": np.ones(2)},
        {"learning_rates": np.ones((1, 1))},
        {"noise": NOISE},
        {"noise": NOISE[None, :, :19]},
    ],
    ids="-".join,
)
def test_the_border_of_a_session_is_checked(backend: str, changes: dict[str, np.ndarray]) -> None:
    _, s = made(backend, "mean-field")
    right: dict[str, Any] = {
        "indices": ROWS[None],
        "learning_rates": np.ones(1),
        "kl_weights": np.ones(1),
        "noise": NOISE[None],
    }
    with pytest.raises(TypeCheckError, match=rf"(?s)Session\.train.*parameter '({'|'.join(right)})'"):
        s.train(s.place(IMAGES), first_step=0, seed=0, **right | changes)


def test_optimizers_are_checked_on_variables() -> None:
    """A TensorFlow variable is no tf.Tensor: each is annotated as what it is."""
    _, s = made("tensorflow", "mean-field")
    (first, second), gradient = s.optimizer.first[:2], np.ones(s.optimizer.first[0].shape)
    import tensorflow as tf

    s.optimizer.direction(tf.constant(gradient), first, first)
    with pytest.raises(TypeCheckError, match="parameter 'second'"):
        s.optimizer.direction(tf.constant(gradient), first, second)


def test_arrays_of_one_name_are_told_apart() -> None:
    """PyTorch's and TensorFlow's Tensor, say, in the containers that beartype caches by their text."""

    class ndarray:  # noqa: N801
        shape, dtype = (2,), "float64"

    def given_twice(array: type) -> Any:
        def twice(x: dict[str, Float[array, "n"]], y: int | Float[array, "n"]) -> tuple[Float[array, "n"], ...]:
            return (*x.values(), y)

        return shapes.checked(twice)

    for array, value in ((np.ndarray, np.ones(2)), (ndarray, ndarray())):
        assert given_twice(array)({"x": value}, value)[1] is value


# --- the sources ---


def functions(backend: str, file: str) -> dict[str, ast.FunctionDef]:
    """Functions and methods with an array of named axes in their signature."""
    found = {}
    for node in ast.parse((FOLDER / backend / file).read_text()).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef):
                hints = [a.annotation for a in (*inner.args.args, *inner.args.kwonlyargs)] + [inner.returns]
                if any(hint is not None and SHAPED.search(ast.unparse(hint)) for hint in hints):
                    prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
                    found[prefix + ONE_CALL.get(inner.name, inner.name)] = inner
    return found


def test_what_has_named_axes_is_checked(backend: str) -> None:
    for path in (FOLDER / backend).glob("*.py"):
        for name, function in functions(backend, path.name).items():
            assert "checked" in [ast.unparse(decorator) for decorator in function.decorator_list], f"{path.name}: {name}"


OWN = {"convolved", "kernel_gradient"}  # the axes of a kernel are the framework's


@pytest.mark.parametrize("file", ["networks.py", "resnet.py", "flow.py", "vae.py", "session.py", "probes.py"])
@pytest.mark.parametrize("other", BACKENDS[1:])
def test_the_same_axes_in_each_backend(file: str, other: str) -> None:
    def signatures(backend: str) -> dict[str, str]:
        return {
            name: ARRAYS.sub("ARRAY", f"{ast.unparse(function.args)} -> {ast.unparse(function.returns)}")
            for name, function in functions(backend, file).items()
            if name not in OWN
        }

    ours = signatures(BACKENDS[0])
    assert ours
    assert signatures(other) == ours


# --- the switch ---

SAME_OBJECTS = """
import importlib, inspect, sys
from common import shapes

assert not shapes.switched_on()
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for owner in [module, *(c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == name)]:
        for function in (f for f in vars(owner).values() if inspect.isfunction(f) and f.__module__ == name):
            assert function.__code__.co_filename == module.__file__, function
assert "beartype" not in sys.modules
"""


@each_backend
def test_off_means_the_very_same_functions(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def function() -> None: ...

    monkeypatch.setenv(shapes.SWITCH, "0")
    assert importlib.import_module(f"backends.{backend}.shapes").checked(function) is function
    modules = [f"backends.{backend}.{name}" for name in ("networks", "resnet", "flow", "vae")]
    environment = {name: value for name, value in os.environ.items() if name != shapes.SWITCH}
    command = [sys.executable, "-W", "error", "-c", SAME_OBJECTS, *modules]
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_value_that_is_no_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shapes.SWITCH, "yes")
    with pytest.raises(UserError, match=shapes.SWITCH):
        shapes.switched_on()
