"""The command line: what it refuses, and which settings it arrives at. No model is trained here."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from benchmarks.__main__ import COMMANDS, OLD_NAMES, RESUMED, main, translate
from benchmarks.harness import cli, environment
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import PRESETS
from benchmarks.studies import skeleton
from common import cache, checkpoints, data, parameters, shapes
from common.checkpoints import Checkpoint
from common.config import SECTIONS, Config
from common.errors import UserError

SETTINGS = [name for names in SECTIONS.values() for name in names if name != "image_shape"] + ["dtype", "precision", "device"]


def digits_checkpoint(path: Path, config: Config) -> Checkpoint:
    """An untrained model's file."""
    digits = data.load("binarized-digits", data_dir=None, binarize=None)
    config = config.replace(image_shape=digits.image_shape)
    initial = parameters.initial_parameters(
        config.model, training=config.training, pixel_log_odds=data.pixel_log_odds(digits.train)
    )
    state = parameters.fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    checkpoint = Checkpoint(config, "pytorch", "quick", digits.name, digits.sha256, state)
    checkpoints.save(checkpoint, path)
    return checkpoint


# --- bad input ---


@pytest.mark.parametrize(
    "arguments",
    [
        "train",
        "tables --now",
        "list --now",
        "reproduce",
        "reproduce table-9",
        "evaluate",
        "evaluate absent.h5",
        "evaluate x --device tpu",
    ],
)
def test_other_commands_refuse(refused: Callable[..., str], arguments: str) -> None:
    assert arguments.split()[-1].removeprefix("--now") in refused(*arguments.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("study agreement --backend jax", "two backends or more"),
        ("study agreement --steps 0", "from 1 to the preset's own, 30,000"),
        ("study agreement --steps 30001", "from 1 to the preset's own, 30,000"),
        ("study bfloat16 --limit nan", "--limit is nan"),
        ("study growth --seconds nan", "--seconds is nan"),
        ("parity --backend jax", "two backends or more"),
        ("study throughput --seconds 0", "--seconds is 0.0"),
        ("study throughput --seconds inf", "--seconds is inf"),
        ("study throughput --sweeps 0", "--sweeps is 0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(*arguments.split())


@pytest.mark.parametrize(
    "command", ["regress", "parity", "reproduce quick", "study overhead", "study growth", "study agreement"]
)
def test_a_results_folder_is_tried_before_anything_is_measured(
    refused: Callable[..., str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").touch()
    assert "can't be written" in refused(*command.split(), f"--results={tmp_path / 'file'}")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "study"])
def test_a_commands_help_fits_a_screen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"python -m benchmarks {command}" in printed
    assert printed.count("\n") <= 40


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_help_says_every_command_in_a_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("  ")] == list(COMMANDS)
    assert printed.count("\n") < 25


def test_every_former_command_has_its_present_name() -> None:
    former = "ablation agreement ancestor bfloat16 cross-evaluate growth numpyro overhead prove-compare prove-regress roofline"
    assert OLD_NAMES.keys() == {*former.split(), "shape-checks", "throughput"}


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_an_old_name_answers_with_the_new_one(capsys: pytest.CaptureFixture[str], old: str, new: str) -> None:
    assert main([old, "--pairs", "3"]) == 2
    assert capsys.readouterr().err == f"'{old}' is now '{new}'.\n"
    command, *rest = new.split()
    assert command in (*COMMANDS, "make", "docs/shapes.md")
    assert command != "study" or rest[0] in skeleton.names()


@pytest.mark.parametrize("command", ["run", "parity", "regress", "study growth", "study agreement"])
def test_an_unknown_backend_is_refused_alike_everywhere(refused: Callable[..., str], tmp_path: Path, command: str) -> None:
    words = refused(*command.split(), "--backend", "jax", "numpy", f"--results={tmp_path / 'results'}")
    assert words == "There is no backend 'numpy'; choose from pytorch, jax, tensorflow.\n"


def test_too_large_a_model_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def too_large(_: list[str]) -> int:
        raise MemoryError("Unable to allocate 8.88 PiB")

    monkeypatch.setattr("benchmarks.commands.list.main", too_large)
    assert main(["list"]) == 2
    assert "There isn't enough memory (Unable to allocate 8.88 PiB)" in capsys.readouterr().err


@pytest.mark.parametrize("switch", [cache.SWITCH, shapes.SWITCH])
def test_a_switch_that_is_none_is_refused_before_a_backend_meets_it(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, switch: str
) -> None:
    monkeypatch.setenv(switch, "off")
    assert f"{switch} is 'off'; set it to" in refused("run", f"--results={tmp_path / 'results'}")


@pytest.mark.parametrize("shape", [(4,), (4, 3, 3, 2), (0, 9)])
def test_an_h5_file_of_the_wrong_shape_is_refused(refused: Callable[..., str], tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "wrong.h5"
    with h5py.File(path, "w") as file:
        for split in data.SPLITS:
            file[split] = np.zeros(shape, np.uint8)
    assert "wrong.h5" in refused("run", "--data", str(path), "--results", str(tmp_path / "results"))


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_file_in_place_of_the_results_folder_is_refused(refused: Callable[..., str], tmp_path: Path, below: str) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    assert "--results" in refused("run", f"--results={path}{below}")
    assert path.read_text() == "mine"


def test_a_damaged_checkpoint_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    digits_checkpoint(path, Config().replace(latent_size=2, hidden_size=8))
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "model.h5" in refused("evaluate", str(path))


def test_a_checkpoint_of_another_model_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    checkpoint = digits_checkpoint(path, Config().replace(latent_size=2, hidden_size=8))
    checkpoint.config = checkpoint.config.replace(latent_size=3)
    checkpoints.save(checkpoint, path)
    assert "other arrays" in refused("evaluate", str(path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--samples 0", "--samples"),
        ("--images 301", "300"),
        ("--backend theano", "theano"),
        ("--data absent.h5", "absent.h5"),
        ("--latent-size 3", "--latent-size"),
    ],
)
def test_evaluate_refuses(refused: Callable[..., str], tmp_path: Path, arguments: str, words: str) -> None:
    path = tmp_path / "model.h5"
    digits_checkpoint(path, Config().replace(latent_size=2, hidden_size=8))
    assert words in refused("evaluate", str(path), *arguments.split())


def test_evaluate_refuses_other_data(refused: Callable[..., str], tmp_path: Path) -> None:
    path, other = tmp_path / "model.h5", tmp_path / "other.h5"
    digits_checkpoint(path, Config().replace(latent_size=2, hidden_size=8))
    with h5py.File(other, "w") as file:
        for split in data.SPLITS:
            file[split] = np.zeros((200, 64), np.uint8)
    assert "other data" in refused("evaluate", str(path), "--data", str(other))


def test_a_process_ends_with_the_code_and_the_sentence(tmp_path: Path) -> None:
    for argument in ("--samples=0", "--nonsense=0"):
        command = [sys.executable, "-m", "benchmarks", "run", argument, "--results", str(tmp_path / "results")]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert argument.partition("=")[0] in answer.stderr
        assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []


# --- settings ---


def test_old_spellings_mean_the_same(jobs: list[Job], tmp_path: Path) -> None:
    old = "--variational flow --latent_size 8 --max_iterations=20 --log_interval 10 --data_dir X --n_samples 7 --use_gpu"
    assert translate(old.split()) == (
        [
            "--variational",
            "flow",
            "--latent_size",
            "8",
            "--steps=20",
            "--log_interval",
            "10",
            "--data_dir",
            "X",
            "--samples",
            "7",
            "--device",
            "cuda",
        ]
    )
    assert main(["run", *old.split(), "--backend", "jax", f"--train_dir={tmp_path}"]) == 2
    (job,) = jobs
    changed = {"variational": "flow", "latent_size": 8, "steps": 20, "log_interval": 10, "samples": 7, "device": "cuda"}
    assert job.config == PRESETS["quick"].replace(**changed, image_shape=(8, 8))
    assert (job.data_dir, job.results) == ("X", str(tmp_path))


@pytest.mark.parametrize(
    ("spelling", "device"),
    [("--use-gpu", "cuda"), ("--use_gpu=true", "cuda"), ("--use-gpu=True", "cuda"), ("--use_gpu=false", "cpu")],
)
def test_use_gpu_is_a_device(jobs: list[Job], tmp_path: Path, spelling: str, device: str) -> None:
    assert translate([spelling]) == ["--device", device]
    assert main(["run", spelling, f"--results={tmp_path}"]) == 2
    assert jobs[0].config.device == device


@pytest.mark.parametrize("value", ["", "yes", "cuda"])
def test_use_gpu_is_true_or_false(refused: Callable[..., str], tmp_path: Path, value: str) -> None:
    words = refused("run", f"--use-gpu={value}", f"--results={tmp_path / 'results'}")
    assert words == f"--use-gpu is '{value}'; it must be true or false, or give --device cuda or cpu.\n"


@pytest.mark.parametrize(
    ("precision", "flags", "said"),
    [
        ("bfloat16", ["avx2"], True),
        ("bfloat16", ["avx2", "avx512_bf16"], False),
        ("bfloat16", [], False),  # not known
        ("full", ["avx2"], False),
    ],
)
def test_bfloat16_is_said_to_be_slow_where_it_is(
    jobs: list[Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    flags: list[str],
    said: bool,
) -> None:
    monkeypatch.setattr(environment, "_processor", lambda: {"brand_raw": "EPYC", "flags": flags})
    main(["run", "--precision", precision, "--results", str(tmp_path / "results")])
    assert jobs
    assert ("no bfloat16 instructions" in capsys.readouterr().err) == said


def answering(command: int) -> list[psutil.Process]:
    """The processes that train for this command; others that it starts, at its imports, only read the processor's name."""
    found = []
    for process in psutil.Process(command).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [process] if "answer" in process.cmdline() else []
    return found


def test_a_command_that_is_terminated_takes_what_it_started_with_it(tmp_path: Path) -> None:
    """Or a run would go on unseen, beside the one that resumes it."""
    command = [sys.executable, "-m", "benchmarks", "run", "--backend", "pytorch", "--results", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not (started := answering(process.pid)) and time.monotonic() < until:
            time.sleep(0.05)
        process.terminate()
        _, error = process.communicate()
    assert process.returncode == 143, error
    assert error.splitlines()[-1] == "Stopped; --resume goes on from here."
    assert len(started) == 1
    assert psutil.wait_procs(started, timeout=10)[1] == []


GRANDCHILD = """
import subprocess, sys
from benchmarks.harness import stopping

stopping.watch(again=True)
sleeper = "import time; print('asleep', flush=True); time.sleep(60)"
subprocess.run([sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"])
"""


def test_what_was_started_by_what_was_started_ends_too() -> None:
    with subprocess.Popen([sys.executable, "-c", GRANDCHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"asleep\n"
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert len(started) == 2
        assert psutil.wait_procs(started, timeout=10)[1] == []


def test_rows_are_run_again_unless_those_of_the_folder_are_asked_for(jobs: list[Job], tmp_path: Path) -> None:
    for flags, resume in (((), False), (("--resume",), True)):
        jobs.clear()
        assert main(["reproduce", "quick", "--results", str(tmp_path), *flags]) == 1
        assert {job.resume for job in jobs} == {resume}


def test_what_is_said_to_resume_has_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([*command.replace("study", "study growth").split(), "--help"])
        assert ("--resume" in capsys.readouterr().out) == (command in RESUMED), command


def test_a_framework_that_is_not_here_is_left_out_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"pytorch": {"devices": {"cpu": "", "cuda": ""}}, "jax": None, "tensorflow": {"devices": {"cpu": ""}}}
    monkeypatch.setattr(cli, "described", lambda name: (found[name], "" if found[name] else f"{name} can't be imported."))
    assert cli.usable(()) == ("pytorch", "tensorflow")
    assert capsys.readouterr().err == "jax is left out: jax can't be imported.\n"
    assert cli.usable((), device="cuda") == ("pytorch",)
    assert capsys.readouterr().err.splitlines()[1] == "tensorflow is left out: it has no device cuda here."
    assert cli.usable(("jax",)) == ("jax",), "it fails by itself, and says why"
    found["pytorch"] = None
    with pytest.raises(UserError, match="No backend can be used on cuda here"):
        cli.usable((), device="cuda")
    with pytest.raises(UserError, match="no backend 'numpy'; choose from pytorch"):
        cli.usable(("jax", "numpy"))
