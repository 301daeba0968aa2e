"""PyTorch's compiled steps are its eager ones: few seconds of compiling each, so few of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.protocol import load, probes
from tests.parity.conftest import IMAGES, deviation, random_state, session, small

torch = pytest.importorskip("torch")

STEPS = 10


def trained(config: Any) -> dict[str, np.ndarray]:
    """The state after two calls, with what they returned. The second compiles nothing."""
    s = session("pytorch", config, random_state(config))
    handle, returned = s.place(IMAGES), []
    rates, kl_weights = np.linspace(1e-3, 1e-2, 2 * STEPS), np.linspace(0.1, 1, 2 * STEPS)
    for first in (0, STEPS):
        rows = np.random.default_rng(first).integers(0, 300, (STEPS, 20)).astype(np.int32)
        schedule = {"learning_rates": rates[first : first + STEPS], "kl_weights": kl_weights[first : first + STEPS]}
        with torch._dynamo.config.patch(error_on_recompile=first > 0):
            returned.append(s.train(handle, rows, first_step=first, **schedule, seed=5, noise=None))
    return s.state() | {"returned": np.concatenate(returned, axis=-1)}


@pytest.mark.parametrize(
    ("family", "changes", "tolerance"),
    [
        pytest.param("mean-field", {"objective_samples": 3, "weight_decay": 0.1}, 1e-13, id="mean-field"),
        pytest.param(
            "mean-field", {"optimizer": "rmsprop", "objective_samples": 3}, 1e-13, id="rmsprop", marks=pytest.mark.slow
        ),
        pytest.param("flow", {"ema_decay": 0.75}, 1e-13, id="flow", marks=pytest.mark.slow),
        pytest.param("mean-field", {"dtype": "float32", "precision": "bfloat16"}, 1e-6, id="bfloat16", marks=pytest.mark.slow),
    ],
)
def test_compiled_steps_train_as_eager_ones(family: str, changes: dict[str, Any], tolerance: float) -> None:
    with torch._dynamo.config.patch(recompile_limit=1):  # a second session isn't one more of the first's programs
        compiled, again, eager = (trained(small(family, compile_from=n, **changes)) for n in (40, 40, 41))
    assert compiled.keys() == again.keys() == eager.keys()
    for name, value in eager.items():
        assert np.array_equal(compiled[name], again[name]), name
        assert deviation(compiled[name].astype(np.float64), value) <= tolerance, name


@pytest.mark.parametrize(("optimizer", "updates"), [("adam", []), ("rmsprop", ["step"])])  # Adam has a kernel of its own
def test_a_run_compiles_from_so_many_steps_on(monkeypatch: pytest.MonkeyPatch, optimizer: str, updates: list[str]) -> None:
    pytorch: Any = load("pytorch")
    functions = []
    monkeypatch.setattr(
        pytorch.compiling, "compiled", lambda function, *, whole: functions.append(function.__name__) or function
    )
    for compile_from in (41, 40):
        config = small("mean-field", optimizer=optimizer, compile_from=compile_from)
        s = session("pytorch", config, random_state(config))
        probes("pytorch").gradient(s, s.place(IMAGES), np.arange(3), noise=np.zeros((1, 3, 4)), kl_weight=1.0)
    assert functions == ["_value_and_gradients", *updates, "once"]


@pytest.mark.slow
def test_what_a_graph_captures_is_compiled_before() -> None:
    """On a GPU the first step compiles and the second is captured, with other tensors as inputs: too late to compile."""
    pytorch: Any = load("pytorch")
    config = small("mean-field", dtype="float32", compile_from=1)
    s: Any = session("pytorch", config, random_state(config))
    moments = pytorch.optimizers.moments(s.optimizer, s.parameters, config.optimizer)
    s.optimizer = pytorch.optimizers.create(s.parameters, config.optimizer, fused=False)
    pytorch.optimizers.load_moments(s.optimizer, s.parameters, moments, 0, config.optimizer)
    s.optimizer.param_groups[0]["capturable"] = True
    s.update = pytorch.compiling.compiled(s.optimizer.step, whole=False)

    def step(kl_weight: float, learning_rate: float) -> Any:
        images, noise = torch.ones(20, 12), torch.ones(1, 20, 4)
        return s._step(images, noise, torch.tensor(kl_weight), torch.tensor(learning_rate))

    step(0.5, 1e-3)
    before = {name: value.clone() for name, value in s.parameters.items()}
    with torch._dynamo.config.patch(error_on_recompile=True):
        step(0.75, 2e-3)
    assert all(not torch.equal(before[name], value) for name, value in s.parameters.items())


NO_HEADERS = """#!/bin/sh
[ "$1" = --version ] && echo "g++ 12.2.0" && exit 0
echo "fatal error: Python.h: No such file or directory" >&2
exit 1
"""


@pytest.mark.parametrize(("script", "reason"), [(None, "no-compiler|No working C"), (NO_HEADERS, "fatal error: Python.h")])
def test_a_machine_that_cannot_compile_says_what_to_do(tmp_path: Path, script: str | None, reason: str) -> None:
    from torch._inductor import config as inductor

    compiler = tmp_path / "no-compiler"
    if script:
        compiler.write_text(script)
        compiler.chmod(0o755)
    with inductor.patch("cpp.cxx", (str(compiler),)):
        with pytest.raises(UserError, match=rf"({reason}).*install a C.* or let --compile-from be more than --steps"):
            trained(small("mean-field", compile_from=40, hidden_size=5))
        trained(small("mean-field", compile_from=41, hidden_size=5))


def test_a_full_disk_is_no_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(function: Any, **_: Any) -> Any:
        def program() -> None:
            raise torch._inductor.exc.InductorError(OSError(28, "No space left on device"), None)

        return program

    pytorch: Any = load("pytorch")
    monkeypatch.setattr(torch, "compile", full)
    with pytest.raises(UserError, match=r"here \(OSError: \[Errno 28\] No space left on device\): let --compile-from be more"):
        pytorch.compiling.compiled(lambda: None, whole=True)()
