"""Exported weights are the suite's model in a plain script that knows nothing of the suite."""

from __future__ import annotations

import ast
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.commands.export import FORMATS
from common import checkpoints, protocol
from common.checkpoints import Checkpoint
from tests.parity.conftest import deviation, random_state, small

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def write_checkpoint(folder: Path, family: str, **settings: object) -> Path:
    """A run's file whose average, best and present parameters all differ, and whose masked weights are not 0."""
    config = small(family, ema_decay=0.9, **settings)
    state = random_state(config)
    state |= {name: value + 0.1 for name, value in state.items() if name.startswith("ema/")}
    best = {name.removeprefix("ema/"): value - 0.2 for name, value in state.items() if name.startswith("ema/")}
    path = folder / f"{family}.h5"
    checkpoints.save(Checkpoint(config, "jax", "quick", "digits", "ab" * 32, state, best, 7, -1.0), path)
    return path


CONVOLUTIONAL = {"network": "resnet", "prior": "flow", "image_shape": (12, 8), "channels": 3, "data_bias": False}


@pytest.mark.parametrize(
    ("family", "changes"),
    [pytest.param("mean-field", {}, marks=pytest.mark.slow), ("flow", {}), ("mean-field", CONVOLUTIONAL)],
    ids=["mean-field", "flow", "convolutional"],
)
@pytest.mark.parametrize("to", FORMATS)
def test_a_plain_script_reproduces_the_model(tmp_path: Path, to: str, family: str, changes: dict[str, object]) -> None:
    path = write_checkpoint(tmp_path, family, **changes)
    assert main(["export", str(path), "--to", to]) == 0
    backend = protocol.load(FORMATS[to])
    pixels = checkpoints.load(path).config.model.pixels
    images = (np.random.default_rng(3).random((9, pixels)) < 0.3).astype(np.uint8)
    noise = np.random.default_rng(4).normal(size=(9, 4))
    np.savez(tmp_path / "inputs.npz", images=images, noise=noise)
    script = shutil.copy(EXAMPLES / f"load_{to}.py", tmp_path)
    # Isolated: neither the checkout nor PYTHONPATH is searched for modules.
    files = [script, f"{family}{backend.EXPORT_SUFFIX}", "inputs.npz", "outputs.npz"]
    command = [sys.executable, "-I", "-W", "error", *files, *(["12", "8"] if changes else [])]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    checkpoint = checkpoints.load(path)
    session = backend.score(checkpoint.config, checkpoint.selected())
    encoded = session.inspect(session.place(images), np.arange(9, dtype=np.int32), noise=noise[None], kl_weight=1.0)
    loc, scale = encoded["loc"], encoded["scale"]
    # The flow as PyTorch has it, which compiles nothing; tests/parity/ says that it is every backend's.
    reference = protocol.load("pytorch").score(checkpoint.config, checkpoint.selected())
    rows = np.arange(9, dtype=np.int32)
    expected = reference.inspect(reference.place(images), rows, noise=noise[None], kl_weight=1.0)
    z, log_q, log_p_z = (expected[name][0] for name in ("z", "log_q", "log_p_z"))
    expected = {"loc": loc, "scale": scale, "z": z, "log_q": log_q, "log_p_z": log_p_z, "probabilities": session.decode(z)}
    with np.load(tmp_path / "outputs.npz") as found:
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():
            assert found[name].dtype == value.dtype == np.float64
            assert found[name].shape == value.shape
            assert deviation(found[name], value) < 1e-12, name


@pytest.mark.parametrize("to", FORMATS)
def test_the_scripts_import_nothing_of_the_suite(to: str) -> None:
    tree = ast.parse((EXAMPLES / f"load_{to}.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in names} & {"backends", "benchmarks", "common"}


@pytest.mark.parametrize("selection", ["last", "best-validation"])
def test_what_is_judged_is_exported_and_no_mask_is_left_to_apply(tmp_path: Path, selection: str) -> None:
    from safetensors.numpy import load_file

    path = write_checkpoint(tmp_path, "flow", selection=selection, dtype="float32")
    assert main(["export", str(path), "--to", "pytorch", "--output", str(tmp_path / "new/weights.safetensors")]) == 0
    found = load_file(tmp_path / "new/weights.safetensors")
    checkpoint = checkpoints.load(path)
    selected = checkpoint.best if selection == "best-validation" else checkpoints.judged(checkpoint.state)
    assert found.keys() == selected.keys()
    assert np.array_equal(found["encoder.first.weight"], selected["encoder.first.weight"].T)
    first = found["flow.blocks.0.made.first.weight"]  # [hidden, latent]
    assert not np.triu(first, 1).any(), "the first hidden unit sees no latent, the last not the last one"
    assert selected["flow.blocks.0.made.first.weight"].all()


def words(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command line says where it refuses."""
    try:
        code: object = main(["export", *map(str, arguments)])
    except SystemExit as error:  # tyro's
        code = error.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def test_what_makes_no_sense_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_checkpoint(tmp_path, "mean-field")
    before = sorted(tmp_path.iterdir())
    assert "no checkpoint" in words(capsys, tmp_path / "absent.h5", "--to", "jax")
    assert "onnx" in words(capsys, path, "--to", "onnx")
    assert "--to" in words(capsys, path)
    assert ".safetensors" in words(capsys, path, "--to", "pytorch", "--output", tmp_path / "weights.pt")
    assert "Cannot write" in words(capsys, path, "--to", "pytorch", "--output", path / "below.safetensors")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "mean-field.safetensors").write_text("mine")
    assert "exists" in words(capsys, path, "--to", "pytorch")
    assert (tmp_path / "mean-field.safetensors").read_text() == "mine"


def test_a_model_that_diverged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Earlier versions saved such checkpoints."""
    config = small("mean-field")
    state = random_state(config)
    state["parameters/decoder.out.bias"][0] = np.nan
    path = tmp_path / "diverged.h5"
    checkpoints.save(Checkpoint(config, "pytorch", "quick", "binarized-digits", "0" * 64, state), path)
    for command in (
        ["export", str(path), "--to", "pytorch"],
        ["parity", "--checkpoints", str(path), "--results", str(tmp_path)],
    ):
        assert main(command) == 2
        assert "diverged: its parameters aren't finite numbers; train again" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["diverged.h5"]


@pytest.mark.parametrize("to", FORMATS)
def test_a_full_disk_leaves_no_half_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    path = write_checkpoint(tmp_path, "mean-field")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        assert "Cannot write" in words(capsys, path, "--to", to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["mean-field.h5"]
