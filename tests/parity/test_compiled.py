"""PyTorch's compiled steps are its eager ones: few seconds of compiling each, so few of them."""

from __future__ import annotations

import logging
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
def test_compiled_steps_train_as_eager_ones(
    family: str, changes: dict[str, Any], tolerance: float, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = logging.getLogger("torch")
    monkeypatch.setattr(compiler, "handlers", [*compiler.handlers, caplog.handler])
    with torch._dynamo.config.patch(recompile_limit=1):  # a second session isn't one more of the first's programs
        compiled, again, eager = (trained(small(family, compile_from=n, **changes)) for n in (40, 40, 41))
    assert compiled.keys() == again.keys() == eager.keys()
    for name, value in eager.items():
        assert np.array_equal(compiled[name], again[name]), name
        assert deviation(compiled[name].astype(np.float64), value) <= tolerance, name
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("optimizer", "updates"), [("adam", []), ("rmsprop", ["step"])])  # Adam has a kernel of its own
def test_a_run_compiles_from_so_many_steps_on(monkeypatch: pytest.MonkeyPatch, optimizer: str, updates: list[str]) -> None:
    pytorch: Any = load("pytorch")
    functions = []
    monkeypatch.setattr(
        pytorch.compiling, "compiled", lambda function, *, fullgraph: functions.append(function.__name__) or function
    )
    for compile_from in (41, 40):
        config = small("mean-field", optimizer=optimizer, compile_from=compile_from)
        s = session("pytorch", config, random_state(config))
        probes("pytorch").gradient(s, s.place(IMAGES), np.arange(3), noise=np.zeros((1, 3, 4)), kl_weight=1.0)
    assert functions == ["_gradients", *updates, "once"]


@pytest.mark.slow
def test_what_a_graph_captures_is_compiled_before() -> None:
    """On a GPU the first step compiles and the second is captured, with other tensors as inputs: too late to compile."""
    pytorch: Any = load("pytorch")
    config = small("mean-field", dtype="float32", compile_from=1)
    s: Any = session("pytorch", config, random_state(config))
    moments = pytorch.optimizers.moments(s.optimizer, s.parameters, config.optimizer)
    s.optimizer = pytorch.optimizers.create(config.optimizer, s.parameters, fused=False)
    pytorch.optimizers.load_moments(s.optimizer, s.parameters, moments, 0, config.optimizer)
    s.optimizer.param_groups[0]["capturable"] = True
    s.update = pytorch.compiling.compiled(s.optimizer.step, fullgraph=False)

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


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reasons of this test's process, emptied."""
    pytorch: Any = load("pytorch")
    monkeypatch.setattr(pytorch.compiling, "uncompiled", reasons := [])
    return reasons


@pytest.mark.parametrize(("script", "reason"), [(None, "no-compiler|No working C"), (NO_HEADERS, "fatal error: Python.h")])
def test_a_machine_that_cannot_compile_trains_and_says_why(
    tmp_path: Path, script: str | None, reason: str, capsys: pytest.CaptureFixture[str], uncompiled: list[str]
) -> None:
    from torch._inductor import config as inductor

    compiler = tmp_path / "no-compiler"
    if script:
        compiler.write_text(script)
        compiler.chmod(0o755)
    with inductor.patch("cpp.cxx", (str(compiler),)):
        without = trained(small("mean-field", compile_from=40, hidden_size=5))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"uncompiled, which is slower: .*({reason}).*needs a C.. compiler and Python's headers", line)
    assert line.endswith(f"{uncompiled[0]}.")
    assert probes("pytorch").uncompiled() == uncompiled[0]
    eager = trained(small("mean-field", compile_from=41, hidden_size=5))
    assert all(np.array_equal(without[name], eager[name]) for name in eager)


def failing(times: int, error: Exception) -> Any:
    """A `torch.compile` whose programs fail at their first `times` calls."""
    calls = iter(range(times))

    def compiled(function: Any, **_: Any) -> Any:
        def program(*inputs: Any) -> Any:
            if next(calls, None) is not None:
                raise error
            return function(*inputs)

        return program

    return compiled


@pytest.mark.parametrize(("times", "own"), [(1, False), (1, True), (2, False)])
def test_where_compiling_fails_it_compiles_with_an_empty_cache(
    times: int,
    own: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    uncompiled: list[str],
) -> None:
    """Kept programs that fail are removed, but not a user's `own`. Where it fails twice, the function runs uncompiled."""
    pytorch: Any = load("pytorch")
    folder = tmp_path / "pytorch"
    folder.mkdir()
    monkeypatch.setattr(pytorch.compiling, "folder", folder)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own" if own else folder))
    error = torch._inductor.exc.InductorError(OSError(28, "No space left on device"), None)
    monkeypatch.setattr(torch, "compile", failing(times, error))
    call = pytorch.compiling.compiled(lambda x: 2 * x, fullgraph=True)
    assert [call(2), call(3)] == [4, 6]
    (line,) = capsys.readouterr().err.splitlines()
    assert "OSError: [Errno 28] No space left on device" in line
    assert ("compiles anew" if times == 1 else "run uncompiled") in line
    assert folder.exists() == (own or times == 2)
    assert len(uncompiled) == times - 1


def test_a_switch_that_turns_compiling_off_is_obeyed(capsys: pytest.CaptureFixture[str], uncompiled: list[str]) -> None:
    pytorch: Any = load("pytorch")
    with torch._dynamo.config.patch(disable=True):
        pytorch.compiling.compiled(lambda: None, fullgraph=True)
    assert "uncompiled, which is slower: TORCH_COMPILE_DISABLE is set." in capsys.readouterr().err
    assert uncompiled == ["TORCH_COMPILE_DISABLE is set"]


@pytest.mark.parametrize("name", ["my cache", "it's", 'a "b"', "back\\slash"])
def test_a_folder_that_the_compiler_cannot_name_keeps_no_programs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytorch: Any = load("pytorch")
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / name))
    assert pytorch.compiling.kept() is None
    assert "without spaces and quotes" in capsys.readouterr().err
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "é(b)"))
    assert pytorch.compiling.kept() is not None


def test_a_framework_in_a_folder_with_a_space_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pytorch: Any = load("pytorch")
    error = Exception("CppCompileError: C++ compile error\n\ncollect2: error: ld returned 1 exit status\n")
    assert pytorch.compiling.reason(error) == (
        "torch.compile failed (collect2: error: ld returned 1 exit status); it needs a C++ compiler and Python's headers "
        "(g++, python3-dev)"
    )
    monkeypatch.setattr(torch, "__file__", "/my checkout/torch/__init__.py")
    assert "its compiler can't name /my checkout/torch: install PyTorch in a folder without" in pytorch.compiling.reason(error)


def test_a_library_that_is_cut_short_is_known() -> None:
    pytorch: Any = load("pytorch")
    library = bytearray(b"\x7fELF".ljust(200 + 3 * 64, b"."))  # with the table of its three sections from byte 200 on
    struct.pack_into("=Q", library, 0x28, 200)
    struct.pack_into("=HH", library, 0x3A, 64, 3)
    assert pytorch.compiling.whole(bytes(library))
    for size in (0, 3, 63, 100, 200, len(library) - 1):
        assert not pytorch.compiling.whole(library[:size])
