"""The event file of a run, read back: its record's numbers under the same tags, once each, after a stop and --resume too."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.harness import records
from benchmarks.harness.events import Event
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import preset
from benchmarks.outputs import tensorboard
from common.schedules import kl_weights, learning_rates

pytest.importorskip("tensorboardX", reason="environments/extras.txt isn't installed")

Scalars = dict[str, dict[int, float]]  # tag → step → value
TINY = (
    *("--variational", "mean-field", "--latent-size", "2", "--hidden-size", "8", "--steps", "60", "--chunk", "10"),
    *("--log-interval", "20", "--validation-interval", "30", "--warm-up", "40", "--samples", "30", "--images", "50"),
)


def written(folder: Path) -> list[Any]:
    """The events of a folder's files, in order, without those that a later file's start has dropped, as TensorBoard does."""
    from tensorboardX.proto.event_pb2 import Event as Written
    from tensorboardX.proto.event_pb2 import SessionLog

    found: list[Any] = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:  # a record: the length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event = Written.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                found = [earlier for earlier in found if earlier.step < event.step]
            found.append(event)
    return found


def scalars(folder: Path) -> Scalars:
    found: Scalars = {}
    for event in written(folder):
        for value in event.summary.value:
            if not value.HasField("image"):
                steps = found.setdefault(value.tag, {})
                assert event.step not in steps, f"{value.tag} has step {event.step} twice"
                steps[event.step] = value.simple_value
    return found


def expected(record: dict[str, Any], config: Any) -> Scalars:
    curve, test = record["curve"], record["test"]
    last = [{"first_step": step - 1, "steps": 1} for step in curve["step"]]
    rates = [learning_rates(config.optimizer, total_steps=config.training.steps, **window)[0] for window in last]
    weights = [kl_weights(config.training, **window)[0] for window in last]
    return {
        "train/objective": dict(zip(curve["step"], curve["objective"], strict=True)),
        "train/elbo": dict(zip(curve["step"], curve["elbo"], strict=True)),
        "train/learning_rate": dict(zip(curve["step"], rates, strict=True)),
        "train/kl_weight": dict(zip(curve["step"], weights, strict=True)),
        "validation/elbo": dict(zip(curve["valid_step"], curve["valid_elbo"], strict=True)),
        "test/elbo": {record["config"]["training"]["steps"]: test["elbo"]},
        "test/log_px": {record["config"]["training"]["steps"]: test["log_px"]},
    }


def assert_same(found: Scalars, wanted: Scalars) -> None:
    """To the precision of the file's numbers, float32."""
    assert found.keys() == wanted.keys()
    for tag, values in wanted.items():
        assert {step: np.float32(value) for step, value in found[tag].items()} == {
            step: np.float32(value) for step, value in values.items()
        }, tag


@pytest.mark.parametrize(
    "backend", ["jax", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pytorch", "tensorflow"))]
)
def test_a_runs_file_has_its_records_numbers_and_images(tmp_path: Path, backend: str) -> None:
    assert main(["run", *TINY, "--backend", backend, "--results", str(tmp_path), "--tensorboard"]) == 0
    (record,) = records.read_all(tmp_path)
    (folder,) = tmp_path.glob("*.tensorboard")
    assert folder.with_suffix(".json").exists()
    config = preset("quick").replace(steps=60, warm_up=40)
    assert_same(scalars(folder), expected(record, config))
    images = {}
    for event in written(folder):
        for value in event.summary.value:
            if value.HasField("image"):
                images[value.tag, event.step] = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    assert images.keys() == {(tag, step) for tag in tensorboard.IMAGES for step in (30, 60)}
    assert all(image.shape[:2] == (16, 64) for image in images.values()), "two rows of eight images"
    assert (images["samples", 30] != images["samples", 60]).any()


def job_in(folder: Path, *, resume: bool) -> Job:
    return Job("jax", "quick", "binarized-digits", None, preset("quick"), str(folder), resume=resume)


def hear(job: Job, *heard: Event) -> None:
    with tensorboard.board(job) as board:
        for event in heard:
            board(event)


def point(step: int, elbo: float) -> Event:
    return {"kind": "point", "step": step, "objective": elbo, "elbo": elbo, "learning_rate": 0.1, "kl_weight": 1.0}


def test_a_resumed_run_goes_on_from_its_step_and_a_new_one_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process ends without a checkpoint of its last point."""
    first, second = job_in(tmp_path, resume=False), job_in(tmp_path, resume=True)
    folder = tensorboard.folder_of(first)
    hear(first, {"kind": "begin", "step": 0, "steps": 60}, point(20, -1.0), point(40, -2.0))
    first.checkpoint.touch()
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: 4e9)  # files are named by their second
    hear(second, {"kind": "begin", "step": 20, "steps": 60}, point(40, -3.0), point(60, -4.0))
    assert scalars(folder)["train/elbo"] == {20: -1.0, 40: -3.0, 60: -4.0}
    hear(first, {"kind": "begin", "step": 0, "steps": 60}, point(20, -5.0))
    assert scalars(folder)["train/elbo"] == {20: -5.0}


def test_a_run_that_does_nothing_leaves_the_file_alone(tmp_path: Path) -> None:
    hear(job_in(tmp_path, resume=False))
    assert list(tmp_path.iterdir()) == []


def test_no_framework_is_imported_for_it() -> None:
    code = "import sys; from benchmarks.outputs import tensorboard; tensorboard.package(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "tensorboardX" in loaded
    assert loaded.isdisjoint({"torch", "jax", "tensorflow"})


def test_without_the_package_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert main(["run", *TINY, "--results", str(tmp_path), "--tensorboard"]) == 2
    assert "environments/extras.txt" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
