"""Small real runs: their records, their checkpoints judged again, stopped and resumed; and what becomes of failed ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import checks, environment, per_image, presets, record_names, records, runs
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import preset
from benchmarks.harness.record_schema import Record
from common import checkpoints, data, estimators, files, protocol, training
from common.checkpoints import Checkpoint
from tests.harness.identical import assert_same_arrays, assert_same_run

TINY = (
    *("--variational", "mean-field", "--latent-size", "2", "--hidden-size", "8", "--steps", "60", "--chunk", "10"),
    *("--log-interval", "20", "--validation-interval", "20", "--warm-up", "10", "--samples", "30", "--images", "50"),
)
AVERAGED = ("--selection", "best-validation", "--ema-decay", "0.9")
RESIDUAL = ("--preset", "resnet-large", "--channels", "2", "--batch-size", "20", "--prior-depth", "2")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in the test's process: each framework is imported once, and the test's patches hold in the run."""

    def work(job: Job, **_: Any) -> int:
        try:
            return runs.worker(job.as_json())
        except RuntimeError:
            return 1

    monkeypatch.setattr(runs, "in_process", work)


def run(folder: Path, *arguments: str) -> int:
    return main(["run", *TINY, "--results", str(folder), *arguments])


def record_in(folder: Path) -> Record:
    (record,) = records.read_all(folder)
    return record


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def checkpoint_in(folder: Path) -> Checkpoint:
    (path,) = folder.glob("*.h5")
    return checkpoints.load(path)


def estimates(printed: str) -> dict[str, str]:
    """The numbers of `evaluate`'s line."""
    found = re.search(r"ELBO (\S+) ± (\S+), log p\(x\) (\S+) ± (\S+) nats .*K = (\d+), (\d+) images", printed)
    assert found, printed
    return dict(zip(("elbo", "elbo_se", "log_px", "log_px_se", "importance_samples", "images"), found.groups(), strict=True))


@pytest.fixture
def stop_after_first_checkpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the next run end in a crash once its first checkpoint is written, and the runs after it whole."""

    def arm() -> None:
        save = checkpoints.save

        def save_and_crash(checkpoint: Checkpoint, path: Path) -> None:
            save(checkpoint, path)
            monkeypatch.setattr(checkpoints, "save", save)
            raise RuntimeError("killed")

        monkeypatch.setattr(checkpoints, "save", save_and_crash)

    return arm


@pytest.fixture(scope="module")
def own_process(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of JAX as a user starts it: its folder, and how it ended."""
    folder = tmp_path_factory.mktemp("own-process")
    command = [sys.executable, "-m", "benchmarks", "run", *TINY, *AVERAGED, "--backend", "jax", "--results", str(folder)]
    return folder, subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_run_waits_for_near_cores_and_says_how_far_apart_they_were_after_training(
    tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    train = training.train

    def found(name: str, trip: float) -> float:
        order.append(name)
        return trip

    def trained(*arguments: Any, **settings: Any) -> Any:
        order.append("train")
        return train(*arguments, **settings)

    monkeypatch.setattr(runs.cores, "gathered", lambda: found("waits", 290.0))
    monkeypatch.setattr(runs.cores, "round_trip", lambda: found("looks", 510.0))
    monkeypatch.setattr(training, "train", trained)
    assert run(tmp_path, "--backend", "pytorch") == 0
    assert order == ["waits", "train", "looks"]
    found_there = record_in(tmp_path)["environment"]
    assert (found_there["round_trip_ns"], found_there["round_trip_after_ns"]) == (290.0, 510.0)


def test_a_run_in_its_own_process_and_its_checkpoint_judged_again(
    own_process: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, answer = own_process
    assert answer.returncode == 0, answer.stderr
    assert "train 60/60 steps" in answer.stderr
    assert "\r" not in answer.stderr

    record, (path,) = record_in(folder), folder.glob("*.h5")
    assert (record["status"], record["reason"], record["backend"]) == ("ok", None, "jax")
    assert record["curve"]["step"] == record["curve"]["valid_step"] == [20, 40, 60]
    test = record["test"]
    assert (test["importance_samples"], test["images"]) == (30, 50)
    assert test["log_px"] > test["elbo"]
    assert 1 <= test["ess"] <= 30
    assert test["by_samples"]["samples"] == [1, 10, 30]
    assert (test["by_samples"]["log_px"][-1], test["by_samples"]["log_px_se"][-1]) == (test["log_px"], test["log_px_se"])
    images = per_image.read(folder / record_names.name_of(record))
    assert images is not None
    assert (
        images["image"].tolist()
        == data.subset(images=50, of=len(data.load("binarized-digits", data_dir=None, binarize=None).test)).tolist()
    )
    for name in ("elbo", "log_px"):
        assert abs(images[name].mean(dtype=float) - test[name]) < 1e-4
    absent = {key for section in ("timing", "test") for key, value in record[section].items() if value is None}
    assert absent <= {"warning", "uncompiled", "product_library"}
    assert record["timing"]["first_chunk_s"] >= record["timing"]["compile_s"]
    assert record["environment"]["load_after"] is not None
    assert {"round_trip_ns", "round_trip_after_ns"} <= record["environment"].keys()
    assert record["environment"]["threads"]["process"] >= 1
    assert record["peak_memory_bytes"] > 0
    assert f"{test['log_px']:.2f} ± {test['log_px_se']:.2f}" in answer.stdout

    assert main(["evaluate", str(path)]) == 0
    again = estimates(capsys.readouterr().out)
    assert again == {name: f"{test[name]:.3f}" if isinstance(test[name], float) else str(test[name]) for name in again}

    assert main(["evaluate", str(path), "--backend", "pytorch", "--samples", "300"]) == 0
    other = estimates(capsys.readouterr().out)
    assert (other["importance_samples"], other["images"]) == ("300", "50")
    # The same images: only the noise differs, which is far less than the error over images.
    assert abs(float(other["log_px"]) - test["log_px"]) < test["log_px_se"] / 2
    assert abs(float(other["elbo"]) - test["elbo"]) < test["elbo_se"] / 2


@pytest.mark.usefixtures("in_this_process")
def test_another_seed_is_another_run(tmp_path: Path) -> None:
    """So that the comparison below can fail."""
    for seed in ("0", "1"):
        assert run(tmp_path / seed, "--backend", "pytorch", "--seed", seed) == 0
    with pytest.raises(AssertionError, match="valid_elbo"):
        assert_same_run(tmp_path / "1", tmp_path / "0", other_settings=True)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("backend", "settings"),
    [("pytorch", ()), ("pytorch", RESIDUAL), ("jax", AVERAGED), pytest.param("tensorflow", AVERAGED, marks=pytest.mark.slow)],
)
def test_a_run_resumed_and_in_other_chunks_is_the_uninterrupted_one(
    tmp_path: Path,
    own_process: tuple[Path, subprocess.CompletedProcess[str]],
    stop_after_first_checkpoint: Callable[[], None],
    backend: str,
    settings: tuple[str, ...],
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    settings = ("--backend", backend, *settings)
    if backend == "jax":
        whole, _ = own_process
    else:
        assert run(whole, *settings) == 0
    stop_after_first_checkpoint()
    assert run(halves, *settings) == 1
    assert record_in(halves)["status"] == "failed"
    assert int(checkpoint_in(halves).state["step"]) == 20
    (path,) = halves.glob("*.json")
    path.unlink()
    assert run(halves, *settings, "--chunk", "5", "--compile-from", "61", "--resume") == 0

    assert_same_run(halves, whole, other_settings=True)
    assert record_in(halves)["timing"]["programs_compiled"] is None, "the last process knows of its own programs alone"


@pytest.mark.usefixtures("in_this_process")
def test_a_run_resumed_with_another_log_interval_has_the_same_weights_and_other_points(
    tmp_path: Path, stop_after_first_checkpoint: Callable[[], None]
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run(whole, "--backend", "pytorch") == 0
    stop_after_first_checkpoint()
    assert run(halves, "--backend", "pytorch") == 1
    assert run(halves, "--backend", "pytorch", "--log-interval", "5", "--resume") == 0
    assert_same_arrays(checkpoint_in(halves).state, checkpoint_in(whole).state)
    assert checkpoint_in(halves).history["step"] == [20, *range(25, 61, 5)]
    assert checkpoint_in(halves).history["valid_elbo"] == checkpoint_in(whole).history["valid_elbo"]


def test_another_command_in_the_same_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "touch", lambda path: None)  # the other one has removed it
    checks.checked(Job("pytorch", "quick", "binarized-digits", None, preset("quick"), str(tmp_path), resume=False))


@pytest.mark.usefixtures("in_this_process")
def test_resume_leaves_a_finished_run_and_tests_it_anew_where_only_the_test_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, "--backend", "pytorch") == 0
    before, first = contents(tmp_path), record_in(tmp_path)
    monkeypatch.setattr(checkpoints, "save", lambda *_: pytest.fail("it trains"))
    assert run(tmp_path, "--backend", "pytorch", "--resume") == 0
    assert contents(tmp_path) == before
    assert run(tmp_path, "--backend", "pytorch", "--resume", "--samples", "40") == 0
    assert contents(tmp_path).items() > before.items()
    (other,) = (record for record in records.read_all(tmp_path) if record != first)
    assert (other["test"]["importance_samples"], other["curve"]) == (40, first["curve"])


@pytest.mark.usefixtures("in_this_process")
def test_a_run_of_other_settings_is_another_run_in_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stop_after_first_checkpoint: Callable[[], None]
) -> None:
    """With --resume too: neither a checkpoint half-way nor a finished record passes for the one that was asked for."""
    stop_after_first_checkpoint()
    assert run(tmp_path, "--backend", "pytorch") == 1
    before = contents(tmp_path)
    assert run(tmp_path, "--backend", "pytorch", "--resume", "--steps=80") == 0
    assert run(tmp_path, "--backend", "pytorch", "--no-data-bias") == 0
    assert contents(tmp_path).items() > before.items()
    assert sorted(Path(name).suffix for name in contents(tmp_path)) == [".h5"] * 3 + [".json"] * 3 + [".npz"] * 2
    found = {record["config"]["training"]["steps"]: record for record in records.read_all(tmp_path)}
    assert found[80]["trained"] == [{"backend": "pytorch", "last_step": 80}]
    assert found[80]["changed"]["steps"] == 80


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("kept", [".json", ".h5"])
@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_a_result_of_other_settings_under_the_same_name_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kept: str, flags: tuple[str, ...]
) -> None:
    """As where an older version named a record by its preset alone, or a preset has changed since."""
    ours = ("--backend", "pytorch", *flags)
    monkeypatch.setattr(presets, "changed", lambda config, name: {})
    assert run(tmp_path, "--backend", "pytorch", "--learning-rate", "0.01") == 0
    for path in tmp_path.iterdir():
        if path.suffix != kept:
            path.unlink()
    before = contents(tmp_path)
    capsys.readouterr()
    assert run(tmp_path, *ours) == 2
    assert "is another run's, with learning_rate 0.01, not 0.001; give another folder" in capsys.readouterr().err
    assert contents(tmp_path) == before


def newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = checkpoints.SCHEMA + 1
    content = path.read_bytes()[files.BLOCK :]
    path.write_bytes(files.seal(content) + content)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("change", "words"), [(newer, "has schema 2, not 1"), (damaged, "or is damaged")])
def test_a_checkpoint_that_cannot_be_read_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], words: str
) -> None:
    assert run(tmp_path, "--backend", "pytorch") == 0
    (path,) = tmp_path.glob("*.h5")
    change(path)
    before = contents(tmp_path)
    capsys.readouterr()
    assert run(tmp_path, "--backend", "pytorch") == 2
    said = capsys.readouterr().err
    assert words in said
    assert "move the file away, or give another folder as --results" in said
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("in_this_process")
def test_data_files_of_one_name_have_results_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, files = tmp_path / "results", [tmp_path / folder / "mine.h5" for folder in ("a", "b")]
    for file, share in zip(files, (0.3, 0.7), strict=True):
        file.parent.mkdir()
        draws = np.random.default_rng(0)
        with h5py.File(file, "w") as opened:
            for split in data.SPLITS:
                opened[split] = draws.random((200, 9)) < share
    assert run(results, "--backend", "pytorch", "--data", str(files[0])) == 0
    before = contents(results)
    assert run(results, "--backend", "pytorch", "--data", str(files[1])) == 0
    both = contents(results)
    assert {name: both[name] for name in before} == before
    assert len(both) == 2 * len(before)

    # A result with the name of earlier versions, which had no hash in it, isn't overwritten either.
    for path in results.iterdir():
        path.rename(results / re.sub("mine-[0-9a-f]{6}", "mine", path.name)) if path.name in before else path.unlink()
    before = contents(results)
    capsys.readouterr()
    assert run(results, "--backend", "pytorch", "--data", str(files[1])) == 2
    assert f"with data set {files[0]}, not {files[1]}" in capsys.readouterr().err
    assert contents(results) == before


def test_the_peak_of_a_run_is_its_own(tmp_path: Path) -> None:
    """A child of a large process isn't large: the system's `ru_maxrss` would be its parent's."""
    asked = "from benchmarks.harness import memory; print(memory.peak())"
    held = np.ones(2**28, np.uint8)
    found = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    if found == "None":
        pytest.skip("this system doesn't say")
    assert 2**23 < int(found) < held.nbytes


@pytest.mark.usefixtures("in_this_process")
def test_every_seed_is_scored_on_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[list[int]] = []
    per_image = estimators.per_image

    def noted(*arguments: Any, images: np.ndarray, samples: int, **settings: Any) -> Any:
        if samples > 1:  # not a validation
            scored.append(images.tolist())
        return per_image(*arguments, images=images, samples=samples, **settings)

    monkeypatch.setattr(estimators, "per_image", noted)
    assert run(tmp_path, "--backend", "pytorch", "--seed", "0", "1") == 0
    assert len(scored) == 2
    assert scored[0] == scored[1]
    assert len(scored[0]) == 50


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("backend", protocol.BACKENDS)
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str) -> None:
    if "cuda" in protocol.load(backend).describe().devices:
        pytest.skip("this machine has the device")
    assert run(tmp_path, "--backend", backend, "--device", "cuda") == 2
    printed = capsys.readouterr()
    assert "--device cpu" in printed.err
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_is_a_failed_run_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(job: Job, **_: Any) -> int:
        if job.backend == "jax":
            return -9
        records.write(
            job.blank(dataset=None) | {"status": "ok", "reason": None},
            Path(job.results),
        )
        return 0

    monkeypatch.setattr(runs, "in_process", work)
    assert run(tmp_path) == 1
    found = {record["backend"]: record for record in records.read_all(tmp_path)}
    assert {name: record["status"] for name, record in found.items()} == {
        "pytorch": "ok",
        "jax": "failed",
        "tensorflow": "ok",
    }
    assert "-9" in found["jax"]["reason"]
    assert found["jax"]["reason"] in capsys.readouterr().out


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("backend", protocol.BACKENDS)
def test_a_run_that_diverges_fails_says_where_and_goes_on_from_its_last_checkpoint(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = training.learning_rates

    def growing(*arguments: Any, first_step: int, steps: int, **others: Any) -> np.ndarray:
        """The schedule's rates, and from step 46 on one that is far too large."""
        found = rates(*arguments, first_step=first_step, steps=steps, **others)
        return np.where(np.arange(first_step, first_step + steps) < 45, found, 1e30)

    monkeypatch.setattr(training, "learning_rates", growing)
    assert run(tmp_path, "--backend", backend) == 1
    record, checkpoint = record_in(tmp_path), checkpoint_in(tmp_path)
    assert record["status"] == "failed"
    where = re.search(
        r"The run diverged: (objective|ELBO) is \S+ at step 4[78]; the checkpoint of step 40 stays", record["reason"]
    )
    assert where, record["reason"]
    assert record["reason"] in " ".join(capsys.readouterr().out.split())
    assert int(checkpoint.state["step"]) == 40
    monkeypatch.setattr(training, "learning_rates", rates)
    assert run(tmp_path, "--backend", backend, "--resume") == 0
    assert run(tmp_path / "whole", "--backend", backend) == 0
    assert_same_arrays(checkpoint_in(tmp_path).state, checkpoint_in(tmp_path / "whole").state)


@pytest.mark.usefixtures("in_this_process")
def test_a_doubtful_estimate_is_told_under_the_table_and_by_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "HIGHEST_LOG_PX", {"binarized-digits": -77.0})  # a digit of 64 pixels has far more
    assert run(tmp_path, "--backend", "pytorch") == 0
    assert "above -77 nats" in record_in(tmp_path)["test"]["warning"]
    assert "pytorch mean-field: log p(x)" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.h5")
    assert main(["evaluate", str(path)]) == 0
    assert "above -77 nats" in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_a_backend_that_is_not_there_is_a_row_in_a_sweep_and_an_error_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "sweep", "--backend", "pytorch") == 0
    for name in protocol.BACKENDS:  # what Python does with this is an ImportError
        monkeypatch.setitem(sys.modules, f"backends.{name}.session", None)
    capsys.readouterr()
    assert run(tmp_path / "sweep", "--resume") == 0
    found = {record["backend"]: record["status"] for record in records.read_all(tmp_path / "sweep")}
    assert found == {"pytorch": "ok", "jax": "not-run", "tensorflow": "not-run"}, "what isn't run replaces no result"
    printed = capsys.readouterr()
    assert all(f"{name}: its framework can't be imported" in printed.out for name in ("jax", "tensorflow"))

    assert run(tmp_path / "asked", "--backend", "jax") == 2
    assert "Backend 'jax' is unavailable" in capsys.readouterr().err
    assert not (tmp_path / "asked").exists()


def test_an_interrupted_run_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(job: Job, **_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "in_process", interrupt)
    assert run(tmp_path) == 130
    assert "--resume" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("in_this_process")
def test_a_run_begun_in_one_framework_goes_on_in_another(
    tmp_path: Path, stop_after_first_checkpoint: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, begun, handed = tmp_path / "whole", tmp_path / "begun", tmp_path / "handed"
    settings = ("--backend", "pytorch", "--noise", "shared", "--dtype", "float64", *AVERAGED)
    assert run(whole, *settings) == 0
    stop_after_first_checkpoint()
    assert run(begun, *settings) == 1
    (path,) = begun.glob("*.h5")
    capsys.readouterr()
    assert main(["run", "--from", str(path), "--backend", "jax", "--results", str(handed)]) == 0
    assert "pytorch 20 → jax 60" in capsys.readouterr().out

    old, new = record_in(whole), record_in(handed)
    assert (new["status"], new["backend"], new["config"]) == ("ok", "jax", old["config"])
    assert old["trained"] == [{"backend": "pytorch", "last_step": 60}]
    assert new["trained"] == [{"backend": "pytorch", "last_step": 20}, {"backend": "jax", "last_step": 60}]
    assert new["curve"]["step"] == old["curve"]["step"]
    assert np.allclose(new["curve"]["objective"], old["curve"]["objective"], rtol=1e-9, atol=0)
    before, after = checkpoint_in(whole), checkpoint_in(handed)
    assert after.history["chunk_steps"] == [10.0] * 4, "the clock is JAX's alone"
    assert after.state.keys() == before.state.keys()
    for name, value in before.state.items():
        assert np.abs(after.state[name] - value).max() <= 1e-9 * np.abs(value).max(), name

    (path,) = handed.glob("*.h5")
    assert main(["run", "--from", str(path), "--backend", "tensorflow", "--results", str(handed)]) == 2
    assert "nothing to train" in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_a_finished_run_of_a_constant_rate_goes_on_for_more_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    constant = ("--backend", "pytorch", "--schedule", "constant")
    assert run(whole, *constant) == run(tmp_path, *constant, "--steps", "40") == 0
    (path,) = tmp_path.glob("*.h5")
    assert main(["run", "--from", str(path), "--steps", "60", "--results", str(longer)]) == 0
    assert record_in(longer)["curve"] == record_in(whole)["curve"]
    assert record_in(longer)["test"] == record_in(whole)["test"]
    assert_same_arrays(checkpoint_in(longer).state, checkpoint_in(whole).state)

    cosine = tmp_path / "cosine"
    assert run(cosine, "--backend", "pytorch") == 0
    (path,) = cosine.glob("*.h5")
    taken = tmp_path / "taken"
    shutil.copytree(cosine, taken)
    capsys.readouterr()
    for words, arguments in (
        ("steps 60, not 80", ("--steps", "80")),
        ("hidden_size 8, not 9", ("--hidden-size", "9")),
        ("seed 0, not 1", ("--seed", "1")),
        ("--resume", ("--resume",)),
        ("another run's", ("--results", str(taken))),
        ("no checkpoint", ("--from", str(tmp_path / "absent.h5"))),
    ):
        assert main(["run", "--from", str(path), "--results", str(tmp_path / "new"), *arguments]) == 2
        printed = capsys.readouterr()
        assert words in printed.err
        assert "Traceback" not in printed.err
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("in_this_process")
def test_a_run_that_goes_on_on_another_machine_publishes_its_own_times_alone(
    tmp_path: Path, stop_after_first_checkpoint: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    stop_after_first_checkpoint()
    assert run(here, "--backend", "pytorch") == 1
    shutil.copytree(here, there)
    assert run(here, "--backend", "pytorch", "--resume") == 0
    assert checkpoint_in(here).history["chunk_steps"] == [10.0] * 6
    monkeypatch.setattr(environment, "timed_on", lambda *_, **__: "another machine")
    assert run(there, "--backend", "pytorch", "--resume") == 0
    assert checkpoint_in(there).history["chunk_steps"] == [10.0] * 4
    assert record_in(there)["timing"]["chunks"] == 3, "a process's first chunk compiles"
    assert record_in(there)["test"] == record_in(here)["test"] | {"per_image": record_in(there)["test"]["per_image"]}

    (path,) = here.glob("*.h5")
    assert main(["run", "--from", str(path), "--results", str(tmp_path / "trained elsewhere")]) == 0
    timing = record_in(tmp_path / "trained elsewhere")["timing"]
    assert {timing[name] for name in ("examples_per_s", "first_chunk_s", "compile_s", "floor_ratio")} == {None}


def test_a_runs_speed_depends_on_the_machine_its_threads_and_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    config = preset("quick")
    found = [environment.timed_on(config, threads=threads) for threads in (None, 1)]
    found += [environment.timed_on(config.replace(**changed), threads=None) for changed in ({"devices": 2}, {"device": "cuda"})]
    machine = environment.machine()
    monkeypatch.setattr(environment, "machine", lambda: machine | {"model": "family 1 model 2"})
    found.append(environment.timed_on(config, threads=None))
    for name, value in (("GIVEN", {"OMP_NUM_THREADS": "1"}), ("quota", lambda: 0.5)):
        with monkeypatch.context() as patch:
            patch.setattr(environment, name, value)
            found.append(environment.timed_on(config, threads=None))
    assert len({*found}) == len(found)
    assert environment.timed_on(config.replace(samples=7), threads=None) == environment.timed_on(config, threads=None)


@pytest.mark.usefixtures("in_this_process")
def test_a_finished_checkpoint_that_is_tested_in_another_folder_is_there_too(tmp_path: Path) -> None:
    assert run(tmp_path / "first", "--backend", "pytorch", *AVERAGED) == 0
    (path,) = (tmp_path / "first").glob("*.h5")
    assert main(["run", "--from", str(path), "--results", str(tmp_path / "second")]) == 0
    first, second = checkpoint_in(tmp_path / "first"), checkpoint_in(tmp_path / "second")
    assert_same_arrays(second.state | second.best, first.state | first.best)
    old, new = (record_in(tmp_path / name) for name in ("first", "second"))
    assert new["test"] == old["test"]
    assert new["timing"]["examples_per_s"] == old["timing"]["examples_per_s"]


@pytest.mark.usefixtures("in_this_process")
def test_a_run_that_begins_again_at_a_kept_checkpoint_removes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--backend", "pytorch", "--keep-checkpoints") == 0
    (start,) = tmp_path.glob("*.steps/00000020.h5")
    assert main(["run", "--from", str(start), "--results", str(tmp_path)]) == 2
    assert "a later state of this run" in capsys.readouterr().err
    for path in [path for path in tmp_path.iterdir() if path.is_file()]:
        path.unlink()
    (folder,) = tmp_path.iterdir()
    names = [f"{step:08d}.h5" for step in (0, 20, 40, 60)]
    kept = [checkpoints.load(folder / name).state for name in names]

    def killed(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    again = ["run", "--from", str(folder / "00000020.h5"), "--results", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", killed)
        assert main(again) == 1
    assert sorted(path.name for path in folder.iterdir()) == names
    assert main(again) == 0
    assert sorted(path.name for path in folder.iterdir()) == names
    for name, state in zip(names, kept, strict=True):
        assert_same_arrays(checkpoints.load(folder / name).state, state)

    other = tmp_path / "other"
    assert main(["run", "--from", str(folder / names[0]), "--backend", "jax", "--results", str(other)]) == 0
    assert record_in(other)["trained"] == [{"backend": "jax", "last_step": 60}], "PyTorch has trained no step of it"
