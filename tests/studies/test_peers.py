"""Other people's code beside ours: the time of a script's step from outside, our own turn's, failures, and the table."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import cores, environment, peers, reports, runs
from benchmarks.harness.jobs import Job
from benchmarks.harness.peers import NotRunError
from benchmarks.harness.presets import QUICK, preset
from benchmarks.outputs import markdown
from benchmarks.studies import ancestor, numpyro
from benchmarks.studies.ancestor import SCRIPTS
from common import clock, protocol
from common.config import FAMILIES

STEP_S = 0.2
SCRIPT = SCRIPTS["ancestor-pytorch"]

# As the older scripts: what they take, when they validate, that they test at the end.
FAKE = """
import argparse, pathlib, time

parser = argparse.ArgumentParser()
for flag in ("--variational", "--data_dir", "--train_dir"):
    parser.add_argument(flag, required=True)
for flag in ("--batch_size", "--max_iterations", "--n_samples"):
    parser.add_argument(flag, type=int, required=True)
parser.add_argument("--log_interval", type=int, default=2)
asked = parser.parse_args()
assert (pathlib.Path(asked.data_dir) / "binary_mnist.h5").exists()
time.sleep({start})
for step in range(asked.max_iterations):
    time.sleep({step})
    if step % asked.log_interval == 0:
        time.sleep({validation})
        print("Step", step, "and its scores")
time.sleep({validation})
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ancestor, "FIRST_STEPS", 1)


@pytest.fixture
def our_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: 10,000 examples/s."""
    monkeypatch.setattr(peers, "examples_per_s", lambda job, *, steps: 10_000.0)
    monkeypatch.setattr(peers, "check", lambda asked, config: None)


def fake(folder: Path, *, start: float = 0.0, validation: float = 0.0, text: str = FAKE) -> Path:
    """A checkout that has the PyTorch script alone."""
    checkout = folder / "theirs"
    checkout.mkdir()
    for name, value in (("start", start), ("step", STEP_S), ("validation", validation)):
        text = text.replace(f"{{{name}}}", str(value))
    (checkout / SCRIPT.file).write_text(text)
    return checkout


def report(name: str, folder: Path) -> dict[str, Any]:
    found = reports.read(name, folder)
    assert found is not None
    return found


def reason(folder: Path) -> str:
    """Why the first row of the ancestor's report wasn't run."""
    return str(report("ancestor", folder)["rows"][0]["reason"])


def command(checkout: Path, results: Path, *more: str) -> list[str]:
    options = ("--variational", "mean-field", "--data", "binarized-digits", "--rounds", "1", "--steps", "5")
    return ["study", "ancestor", str(checkout), *options, "--results", str(results), *more]


# --- theirs ---


@pytest.mark.parametrize(("start", "validation"), [(0.0, 0.0), (0.4, 0.8)])
def test_a_script_is_timed_by_its_steps_alone(tmp_path: Path, our_turn: None, start: float, validation: float) -> None:
    """Red with the difference of two runs taken out, or with validations in it."""
    checkout = fake(tmp_path, start=start, validation=validation)
    assert main(command(checkout, tmp_path, "--preset", "ancestor-pytorch")) == 0
    (row,) = report("ancestor", tmp_path)["rows"]
    (theirs,) = row["peer_examples_per_s"]
    assert theirs == pytest.approx(128 / STEP_S, rel=0.25)
    assert peers.ratios(row) == [10_000 / theirs]
    assert "torch" in row["peer_versions"]
    assert list(checkout.iterdir()) == [checkout / SCRIPT.file], "it's left as it was"
    text = markdown.page(ancestor.parts(report("ancestor", tmp_path)))
    assert f"{10_000 / theirs:.2f} ({10_000 / theirs:.2f} … " in text


def test_the_same_time_for_more_steps_is_no_speed() -> None:
    with pytest.raises(NotRunError, match="30 more steps took no longer"):
        ancestor.step_seconds(lambda steps: 0.2 / steps, steps=30)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("print('Step 0 ')\nraise ValueError('no such thing')\n", "ended with code 1: ValueError: no such thing"),
        ("print('nothing else')\n", "printed no line that begins with 'Step 0'"),
    ],
)
def test_a_script_that_fails_has_its_last_line_as_reason_and_is_tried_again(
    tmp_path: Path, our_turn: None, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    checkout = fake(tmp_path, text=text)
    arguments = command(checkout, tmp_path, "--preset", "ancestor-pytorch", "--resume")
    assert main(arguments) == 1
    assert f"not run: {SCRIPT.file} {reason}" in capsys.readouterr().out
    (checkout / SCRIPT.file).write_text("raise SystemExit(7)")
    assert main(arguments) == 1
    assert "ended with code 7" in capsys.readouterr().out


def test_a_python_that_is_not_there_is_a_reason(tmp_path: Path, our_turn: None) -> None:
    assert main(command(fake(tmp_path), tmp_path, "--preset", "ancestor-pytorch", "--python", "nowhere/python")) == 1
    assert reason(tmp_path).endswith("nowhere/python can't be run (No such file or directory)")


def test_a_python_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, our_turn: None) -> None:
    monkeypatch.chdir(tmp_path)
    Path("python").symlink_to(sys.executable)
    text = "import sys\nprint('Step 0 ')\nraise SystemExit(sys.executable)\n"
    assert main(command(fake(tmp_path, text=text), tmp_path, "--preset", "ancestor-pytorch", "--python", "./python")) == 1
    assert reason(tmp_path).endswith(f"ended with code 1: {tmp_path}/python")


def test_on_a_gpu_the_aim_is_another(tmp_path: Path) -> None:
    asked = ancestor.Arguments(directory=tmp_path, preset=("ancestor-jax",), device="cuda", data="binarized-digits")
    rows = [row for point in ancestor.plan(asked).values() for row in ancestor.run(point)["rows"]]
    assert [(row["variational"], row["target"]) for row in rows] == [
        (name, ancestor.GPU_AIM) for name in ("mean-field", "flow")
    ]


def test_without_stand_ins_the_jax_script_is_not_run_and_says_why(tmp_path: Path, our_turn: None) -> None:
    checkout = fake(tmp_path)
    (checkout / SCRIPTS["ancestor-jax"].file).write_text("raise SystemExit(5)\n")
    assert main(command(checkout, tmp_path, "--preset", "ancestor-jax")) == 0
    assert reason(tmp_path) == (
        "it needs stand-ins for TensorFlow Probability and TensorFlow Datasets, as a folder to --stand-ins"
    )
    assert main(command(checkout, tmp_path, "--preset", "ancestor-jax", "--stand-ins", str(tmp_path))) == 1
    assert "ended with code 5" in reason(tmp_path)


def test_stand_ins_are_found_with_the_data_and_no_compiled_program_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    variables = ancestor.surroundings({"stand_ins": str(tmp_path / "stand-ins")}, device="cpu", folder=tmp_path / "data")
    assert variables["PYTHONPATH"] == str(tmp_path / "stand-ins")
    assert variables["TFDS_DATA_DIR"] == str(tmp_path / "data")
    assert "JAX_COMPILATION_CACHE_DIR" not in variables


def test_a_folder_without_the_scripts_is_an_error_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert main(command(folder, tmp_path)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{folder} has no {SCRIPT.file}; give a checkout of jaanli/variational-autoencoder")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--preset", "standard"), "no older script 'standard'"),
        (("--steps", "150"), "--steps is 150; it must be a multiple of 100"),
        (("--rounds", "0"), "--rounds is 0"),
    ],
)
def test_settings_that_cannot_be_timed_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert main(command(fake(tmp_path), tmp_path, *more)) == 2
    assert message in capsys.readouterr().err


def test_the_presets_are_the_scripts_batches() -> None:
    assert {preset(name).training.batch_size for name in SCRIPTS} == {128}
    assert all(script.aims.keys() == set(FAMILIES) for script in SCRIPTS.values())


# --- ours ---


class LateSession:
    """Its first chunk takes 7 seconds of `now`, another one 2; the device has done a chunk only when it's waited for."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.now = self.due = 0

    def place(self, images: Any) -> None: ...

    def train(self, handle: Any, indices: Any, *, first_step: int, **chunk: Any) -> None:
        self.due += 2 if self.steps else 7
        self.steps.append(first_step)

    def synchronize(self) -> None:
        self.now = self.due


def test_our_turn_is_its_steps_after_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    session = LateSession()
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: session.now))
    monkeypatch.setattr(protocol, "load", lambda name: None)
    monkeypatch.setattr(runs, "begin", lambda job, **settings: (None, session))
    job = Job("jax", "quick", "binarized-digits", None, QUICK.replace(image_shape=(8, 8)), "", False)
    assert peers.our_seconds({"job": job.as_json(), "steps": 1_000}) == 20
    assert session.steps == list(range(0, 1_100, 100))


def test_our_turn_in_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    config = preset("ancestor-pytorch").replace(image_shape=(8, 8), hidden_size=16, latent_size=4, chunk=5, compile_from=30_001)
    job = Job("pytorch", "ancestor-pytorch", "binarized-digits", None, config, results="", resume=False)
    assert peers.examples_per_s(job, steps=10) > 0
    with pytest.raises(NotRunError, match="the process of pytorch ended with code 2"):
        peers.examples_per_s(dataclasses.replace(job, data="nothing"), steps=10)
    assert "There is no data set 'nothing'" in capfd.readouterr().err


# --- NumPyro ---


OPTIONS = ("study", "numpyro", "--python", sys.executable, "--data", "binarized-digits")


def speeds(monkeypatch: pytest.MonkeyPatch, **ours: float) -> list[str]:
    """NumPyro has 1,000 examples/s, each backend its own, in bfloat16 twice as many. Returns the order of turns."""
    order: list[str] = []

    def our_turn(job: Job, *, steps: int) -> float:
        order.append(job.backend)
        return ours[job.backend] * (2 if job.config.precision == "bfloat16" else 1)

    def their_turn(*_: Any, **__: Any) -> float:
        order.append("numpyro")
        return 1_000.0

    monkeypatch.setattr(numpyro, "examples_per_s", their_turn)
    monkeypatch.setattr(peers, "examples_per_s", our_turn)
    return order


def test_numpyro_takes_turns_with_each_backend_and_the_fastest_has_the_aim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = speeds(monkeypatch, pytorch=900.0, jax=1_200.0)
    assert main([*OPTIONS, "--backend", "pytorch", "jax", "--rounds", "2", "--results", str(tmp_path)]) == 0
    assert order == ["numpyro", "pytorch", "jax"] * 2
    found = report("numpyro", tmp_path)
    assert len(found["rows"][0]["round_trips_ns"]) == 2 * 6, "at both ends of each turn"
    text = markdown.page(numpyro.parts(found))
    assert cores.said(found["rows"][0]["round_trips_ns"]) in text
    (slow,) = [line for line in text.splitlines() if "standard, pytorch" in line]
    (fast,) = [line for line in text.splitlines() if "standard, jax" in line]
    assert slow.endswith("| 900 | 0.90 (0.90 … 0.90) | 2 × 1,000 |  |")
    assert fast.endswith("| 1,200 | 1.20 (1.20 … 1.20) | 2 × 1,000 | ≥ 1.05 |")


def test_each_precision_of_ours_has_its_rows_and_its_aim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, pytorch=900.0, jax=1_200.0)
    options = ("--backend", "pytorch", "jax", "--rounds", "1", "--precision", "full", "bfloat16", "--results", str(tmp_path))
    assert main([*OPTIONS, *options]) == 0
    rows = report("numpyro", tmp_path)["rows"]
    assert {row["ours"]: (peers.ratios(row), row["target"]) for row in rows} == {
        "standard, pytorch": ([0.9], None),
        "standard, pytorch, bfloat16": ([1.8], None),
        "standard, jax": ([1.2], 1.05),
        "standard, jax, bfloat16": ([2.4], 1.3),
    }


def test_the_aim_is_the_fastests_of_all_rows_earlier_ones_among_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, pytorch=900.0, jax=1_200.0, tensorflow=1_300.0)
    for backend, aimed in (("jax", "jax"), ("pytorch", "jax"), ("tensorflow", "tensorflow")):
        assert main([*OPTIONS, "--backend", backend, "--rounds", "1", "--results", str(tmp_path)]) == 0
        rows = report("numpyro", tmp_path)["rows"]
        assert {row["ours"]: row["target"] for row in rows if row["target"]} == {f"standard, {aimed}": 1.05}


def stand_in(folder: Path, script: str) -> str:
    """A script in place of NumPyro's Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("loss", [[200.0, float("nan")], [200.0, 300.0]])
def test_a_peer_that_does_not_train_has_no_speed(tmp_path: Path, loss: list[float]) -> None:
    python = stand_in(tmp_path, f"echo '{json.dumps({'seconds': 2.0, 'steps': 1000, 'loss': loss})}'")
    with pytest.raises(NotRunError, match=r"doesn't train: its loss is 200\.00 nats"):
        numpyro.examples_per_s({"python": python, "steps": 1_000}, settings=preset("standard"), images=Path("train.npy"))


def test_numpyro_is_asked_for_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = '{"seconds": 2.0, "steps": 1000, "loss": [200, 100]}'
    point = {"python": stand_in(tmp_path, f"shift\necho \"$@\" > asked\necho '{answer}'"), "steps": 1_000}
    assert numpyro.examples_per_s(point, settings=preset("standard"), images=Path("train.npy")) == 1000 * 128 / 2
    options = (tmp_path / "asked").read_text().split()
    assert {"--images=train.npy", "--latent-size=128", "--hidden-size=512", "--batch-size=128", "--chunk=100"} < set(options)
    assert "--steps=1000" in options
    assert numpyro.SCRIPT.exists()


def test_where_numpyro_fails_its_rows_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It isn't installed here."""
    assert main([*OPTIONS, "--backend", "jax", "--rounds", "1", "--results", str(tmp_path)]) == 1
    assert "not run: NumPyro SVI ended with code 1: ModuleNotFoundError" in capsys.readouterr().out


# --- the report ---


def test_rows_are_added_to_earlier_ones_and_a_failure_replaces_no_measurement(tmp_path: Path) -> None:
    def row(family: str, *, speed: float | None) -> dict[str, Any]:
        blank = peers.blank("script.py", "preset, jax", variational=family, device="cpu", steps=700, target=1.5)
        if speed is None:
            return blank | {"reason": "no luck"}
        return blank | {"peer_examples_per_s": [100.0, 200.0, 100.0], "ours_examples_per_s": [speed] * 3}

    def publish(*rows: dict[str, Any]) -> dict[str, Any]:
        content = {"rows": peers.among_earlier(rows, "peers", tmp_path)}
        reports.write("peers", content, tmp_path, environment=environment.describe())
        return report("peers", tmp_path)

    publish(row("flow", speed=None))
    publish(row("mean-field", speed=100.0), row("flow", speed=300.0))
    found = publish(row("mean-field", speed=None))
    flow, mean_field = markdown.page(ancestor.parts(found)).splitlines()[2:4]
    assert flow == "| script.py | flow | preset, jax | 100 | 300 | 3.00 (1.50 … 3.00) | 3 × 700 | ≥ 1.50 |"
    assert mean_field == "| script.py | mean-field | preset, jax | 100 | 100 | 1.00 (0.50 … 1.00) | 3 × 700 | ≥ 1.50 |"
