"""What holds of every engine: flags that are refused before anything runs, interpreters, jobs for other machines, the loop."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from benchmarks import engines
from benchmarks.__main__ import main
from benchmarks.commands import run
from benchmarks.engines import Begin, Ends, here
from benchmarks.harness import flags, processes, records, runs
from benchmarks.harness.grid import grid_of, interpreters
from benchmarks.harness.jobs import Job
from common.errors import UserError

ROOT = Path(__file__).parents[2]


def test_every_engine_is_a_choice_of_the_flag_and_a_file() -> None:
    files = {path.stem for path in Path(engines.__file__).parent.glob("*.py")} - {"__init__"}
    assert {*get_args(flags.On)} == {*run.ENGINES} == files
    read = {"on", "python"}.union(*(engine.FLAGS for engine in run.ENGINES.values()))
    assert {*flags.GROUPS["where"]} == read


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--on moon", "moon"),
        (
            "--address 1.2.3.4:6379",
            "--address is a flag of --on ray, and the runs are on here; leave it out, or give --on ray.",
        ),
        ("--on slurm --address auto", "--address is a flag of --on ray, and the runs are on slurm"),
        ("--on ray --partition gpu", "--partition is a flag of --on slurm, and the runs are on ray"),
        ("--parallel 3", "--parallel is a flag of --on slurm"),
        ("--time 3", "--time is a flag of --on slurm"),
        ("--python jax", "--python is 'jax'; it must be a backend and its interpreter: jax=/path/to/python."),
        ("--python jax=", "--python is 'jax='"),
        ("--python theano=python", "theano"),
        ("--python jax=/nowhere/python", "--python names /nowhere/python for jax, which isn't a program here"),
        (f"--python jax={sys.executable} jax=python3", "--python names jax twice"),
        ("--on ray", "--on ray needs the package ray; `python -m pip install -r environments/ray.txt`."),
        ("--on slurm --time 60", "--on slurm needs the package submitit; `python -m pip install -r environments/slurm.txt`."),
    ],
)
def test_run_refuses(
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: str,
    words: str,
) -> None:
    for package in ("ray", "submitit"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it weren't installed
    assert words in refused("run", "--backend", "jax", *arguments.split(), f"--results={tmp_path / 'results'}")


# --- a backend's own interpreter ---


def other_python(folder: Path) -> Path:
    """A program that runs this Python, and leaves its arguments in a file beside it."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\necho "$PYTHONPATH" "$@" > {folder / "asked"}\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return program


def test_a_backends_interpreter_runs_its_jobs_and_needs_no_package_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = other_python(tmp_path)
    monkeypatch.setattr("common.protocol.lacks", lambda name: None if name == "jax" else "its package")
    given = ["--python", f"pytorch={program}", "--variational", "flow", "--results", str(tmp_path / "results")]
    found = grid_of(flags.asked_of(given)).jobs
    assert {job.backend: job.python for job in found} == {"pytorch": str(program), "jax": None}
    assert processes.ask("math:sqrt", 4.0, title="a root", python=str(program)) == 2.0
    assert (tmp_path / "asked").read_text().split()[-1] == "math:sqrt"
    assert found[0] == Job.from_json(found[0].as_json())


def test_a_job_starts_its_own_interpreter_which_finds_this_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(processes, "ask", lambda *_, **options: asked.append(options) or 0)
    (job,) = grid_of(flags.asked_of(["--backend", "jax", "--variational", "flow", "--results", str(tmp_path)])).jobs
    monkeypatch.setenv("PYTHONPATH", "/mine")
    for python in (None, "/other/python"):
        runs.in_process(dataclasses.replace(job, python=python))
    usual, other = asked
    assert (usual["python"], usual["variables"].get("PYTHONPATH")) == (None, None)
    assert other["python"] == "/other/python"
    assert other["variables"]["PYTHONPATH"] == f"{ROOT}{os.pathsep}/mine"


def test_an_environments_own_interpreter_stays_the_link_that_it_is(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    assert interpreters([f"jax={tmp_path / 'python'}"]) == {"jax": str(tmp_path / "python")}


# --- jobs for other machines ---


def test_a_job_for_another_machine_goes_on_from_its_checkpoint_by_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = grid_of(flags.asked_of(["--backend", "jax", "--variational", "flow"])).jobs
    assert (job.resume, job.threads) == (False, None)
    sent = engines.elsewhere(dataclasses.replace(job, data="mine.h5", data_dir="here", start="a.h5"))
    assert (sent.resume, sent.threads, sent.python) == (True, 1, None)
    assert [sent.results, sent.data, sent.data_dir, sent.start] == [
        str(tmp_path / name) for name in ("results", "mine.h5", "here", "a.h5")
    ]
    assert engines.elsewhere(job).data == "binarized-digits"
    assert engines.elsewhere(dataclasses.replace(job, threads=3)).threads == 3
    with pytest.raises(UserError, match=r"This node has no folder .*results; give a folder that all nodes share"):
        engines.seen(sent)


def test_a_signal_that_a_scheduler_sends_to_every_process_leaves_the_runs_own_alone() -> None:
    """SLURM's SIGUSR2 is for the task, which then asks the run's process to save its step and end."""
    survive = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('lives')"]
    with processes.started(survive, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0] == "lives\n"


# --- the loop ---


class Overlapping:
    """An engine whose jobs begin together and end in the opposite order; the first is started a second time."""

    FLAGS: tuple[str, ...] = ()
    WAITS = True
    code = 0
    check = staticmethod(here.check)
    remark = staticmethod(here.remark)

    def run(self, jobs: list[Job], *, values: flags.Values, begin: Begin) -> Ends:
        heard = [begin(job) for job in jobs]
        heard[0] = begin(jobs[0])
        for each, job in zip(heard, jobs, strict=True):
            each({"kind": "said", "text": f"I am {job.backend}"})
        for job in reversed(jobs):
            if not self.code:
                records.write(job.blank(dataset=job.dataset()) | {"status": "ok", "reason": None}, Path(job.results))
            yield job, self.code


@pytest.fixture
def overlapping(monkeypatch: pytest.MonkeyPatch) -> Overlapping:
    engine = Overlapping()
    monkeypatch.setitem(run.ENGINES, "here", engine)
    return engine


def test_runs_that_overlap_are_shown_in_the_order_of_the_plan(
    tmp_path: Path, overlapping: Overlapping, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--variational", "flow", "--results", str(tmp_path), "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [record["backend"] for record in printed] == ["pytorch", "jax", "tensorflow"]


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [(-9, "failed", "jax: its process ended with code -9: I am jax"), (runs.LOST, "failed", "jax: I am jax")],
)
def test_each_run_has_its_own_last_words(
    tmp_path: Path, overlapping: Overlapping, capsys: pytest.CaptureFixture[str], code: int, status: str, reason: str
) -> None:
    overlapping.code = code
    assert main(["run", "--variational", "flow", "--results", str(tmp_path)]) == 1
    found = {record["backend"]: record for record in records.read_all(tmp_path)}
    assert (found["jax"]["status"], found["jax"]["reason"], found["jax"]["tail"]) == (status, reason, ["I am jax"])


def test_what_cannot_be_written_ends_the_engine(tmp_path: Path, overlapping: Overlapping) -> None:
    overlapping.code = runs.UNWRITABLE
    assert main(["run", "--variational", "flow", "--results", str(tmp_path)]) == 2
    assert records.read_all(tmp_path) == []
