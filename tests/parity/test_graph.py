"""What PyTorch does on a GPU, tested without one: operations stand in for kernels, a list of them for a CUDA graph."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.noise import NOISE_BLOCK
from common.protocol import load
from tests.parity.conftest import IMAGES, random_state, session, small

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from backends.pytorch import graphs  # noqa: E402


def tensors(values: Any) -> Iterator[Any]:
    """Those of arguments, one or a list of them each."""
    for value in values:
        yield from (x for x in (value if isinstance(value, list | tuple) else [value]) if isinstance(x, torch.Tensor))


class Graph(TorchDispatchMode):
    """As `torch.cuda.CUDAGraph`: capture computes nothing; a replay does the same operations on the same memory, no Python.

    A number read from a tensor during capture is an error, as there: it would have to wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Callable[[], None]] = []
        self.before: dict[int, tuple[Any, Any]] = {}
        self.own: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert operation is not torch.ops.aten._local_scalar_dense.default, "a graph can't wait for a number"
        written = [
            value
            for argument, value in zip(operation._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        for x in tensors(written):
            if x.untyped_storage().data_ptr() not in self.own:
                self.before.setdefault(id(x), (x, x.clone()))
        results = operation(*args, **kwargs)
        fresh = [x for x in tensors([results]) if not operation.is_view and not any(x is y for y in tensors(written))]
        self.own |= {x.untyped_storage().data_ptr() for x in fresh}

        def replay() -> None:
            again = operation(*args, **kwargs)
            for mine, new in zip(fresh, tensors([again]) if fresh else (), strict=True):
                mine.copy_(new)

        self.operations.append(replay)
        return results

    def end(self) -> None:
        for x, value in self.before.values():
            x.data.copy_(value)

    def replay(self) -> None:
        with torch.no_grad():
            for operation in self.operations:
                operation()


@contextmanager
def capture(graph: Graph) -> Iterator[None]:
    with graph:
        yield
    graph.end()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    recorded: Callable[[Graph], AbstractContextManager[None]] = capture
    monkeypatch.setattr(torch.cuda, "graph", recorded)


RATES = 2.0 ** -np.arange(4, 10)  # float32 holds each of them, so that a tensor says what a number does
WEIGHTS = np.linspace(0.25, 1.5, 6)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "weight_decay": 0.1, "ema_decay": 0.75},
        {"optimizer": "adam", "objective_samples": 3},
        {"optimizer": "adam", "precision": "bfloat16"},
        {"optimizer": "rmsprop", "rmsprop_centered": True},
        {"optimizer": "rmsprop", "rmsprop_epsilon_in_root": True, "weight_decay": 0.1},
    ],
    ids=lambda changes: ", ".join(map(str, changes.values())),
)
def test_a_graph_trains_as_the_operations_one_by_one(family: str, changes: dict[str, Any]) -> None:
    """Bit for bit: rates, KL weights, images and noise of each step reach it, and so does another batch size."""
    config = small(family, **{"dtype": "float32", **changes})
    results = []
    for captures in (False, True):
        s: Any = session("pytorch", config, random_state(config))
        s.captures = captures
        handle, returned = s.place(IMAGES), []
        for first, batch in ((0, 20), (3, 10), (6, 20)):
            rows = np.random.default_rng(first).integers(0, 300, (3, batch)).astype(np.int32)
            schedule = {
                "learning_rates": RATES[-3:] if first else RATES[:3],
                "kl_weights": WEIGHTS[-3:] if first else WEIGHTS[:3],
            }
            returned.append(s.train(handle, rows, first_step=first, **schedule, seed=5, noise=None))
        assert set(s.graphs) == ({10, 20} if captures else set())
        results.append(s.state() | {"returned": np.concatenate(returned, axis=-1)})
    one_by_one, graph = results
    assert one_by_one.keys() == graph.keys()
    for name, value in one_by_one.items():
        assert np.array_equal(value, graph[name]), name


def test_what_is_repeated_is_launched_at_once_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    done, waited = torch.zeros(()), []
    calls: list[None] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(float(done)))

    def once() -> None:
        calls.append(None)
        done.add_(1)

    graphs.repeated(once, device=torch.device("cpu"))(3)
    assert (len(calls), float(done), waited) == (3, 3, [])
    launch = graphs.repeated(once, device=SimpleNamespace(type="cuda"))
    assert (len(calls), float(done)) == (5, 4), "capturing computes nothing"
    launch(3)
    assert (len(calls), waited) == (5, [7]), "replayed without Python, and waited for"


def test_a_graph_keeps_what_its_kernels_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a graph is captured nothing else may hold the function's own tensors, and a GPU's memory is given away."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())

    def captured() -> tuple[Callable[[int], None], Any]:
        factor = torch.ones(3)
        return graphs.repeated(lambda: factor + 1, device=SimpleNamespace(type="cuda")), weakref.ref(factor)

    launch, factor = captured()
    gc.collect()
    assert factor() is not None
    del launch
    gc.collect()
    assert factor() is None


def test_evaluation_noise_is_a_function_of_seed_image_and_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever shares an image's draw: on a GPU a thousand do, here three."""
    pytorch: Any = load("pytorch")
    monkeypatch.setitem(pytorch.IMAGES_A_DRAW, "cpu", 3)
    config = small("mean-field")
    s: Any = session("pytorch", config, random_state(config))
    images = np.array([7, 2, 100, 7, 6, 0])
    together = s._evaluation_noise(images, 5, 4)
    assert together.shape == (NOISE_BLOCK, len(images), config.model.latent_size)
    for i, image in enumerate(images):
        assert torch.equal(together[:, [i]], s._evaluation_noise(images[[i]], 5, 4)), image
    kinds = {together[:, i].numpy().tobytes() for i in range(len(images))}
    others = [s._evaluation_noise(images, *other).numpy() for other in ((5, 3), (6, 4))]
    kinds |= {other[:, i].tobytes() for other in others for i in range(len(images))}
    assert len(kinds) == 3 * (len(images) - 1), "of each image, block and seed its own; image 7 is there twice"
    assert abs(float(together.mean())) < 0.2
    assert 0.8 < float(together.std()) < 1.2


def test_a_number_that_would_be_waited_for_is_red() -> None:
    x = torch.ones(())
    with pytest.raises(AssertionError, match="can't wait"):
        graphs.Graph(lambda: x * float(x), device=x.device)
