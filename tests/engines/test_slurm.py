"""The batch script that SLURM gets, and a task that is preempted and requeued. No SLURM is needed: sbatch is a stand-in."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.__main__ import main
from benchmarks.engines import slurm
from benchmarks.harness import flags, processes, records, runs
from benchmarks.harness.environment import ROOT
from benchmarks.harness.grid import grid_of
from benchmarks.harness.jobs import Job
from common import checkpoints
from tests.engines.sweeps import TINY, assert_same_sweeps

submitit = pytest.importorskip("submitit", reason="submitit isn't installed: environments/slurm.txt")

SBATCH = """#!/bin/sh
cp "$1" {folder}/script
{then}
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a stand-in of sbatch on the PATH, which keeps the script and then does as it's told; and srun."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def put(then: str = "echo Submitted batch job 4242") -> None:
        for name, text in (("sbatch", SBATCH.format(folder=tmp_path, then=then)), ("srun", "#!/bin/sh\n")):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    put()
    return put


def options(script: str) -> dict[str, str]:
    """Name → value of the #SBATCH lines; "" for a switch."""
    pairs = (line.removeprefix("#SBATCH --").partition("=") for line in script.splitlines() if line.startswith("#SBATCH"))
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


@pytest.mark.usefixtures("cluster")
def test_the_runs_are_one_array_that_is_requeued_after_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    arguments = ["--backend", "jax", "pytorch", "--seed", "0", "1", "2", "--threads", "4", "--results", str(results)]
    where = ["--time", "90", "--parallel", "2", "--partition", "night", "--account", "our lab"]
    assert main(["run", "--on", "slurm", *arguments, *where]) == 0
    printed = capsys.readouterr()
    found = options((tmp_path / "script").read_text())
    logs = {"output": f"{results}/slurm/%A_%a_0_log.out", "error": f"{results}/slurm/%A_%a_0_log.err"}
    assert found == logs | {
        "array": "0-11%2",
        "account": "our lab",
        "cpus-per-task": "4",
        "job-name": "vaebench",
        "nodes": "1",
        "open-mode": "append",
        "partition": "night",
        "requeue": "",
        "signal": "USR2@120",
        "time": "90",
    }
    assert f"The nodes must share the folder of the results, {results}, and this checkout, {ROOT}." in printed.err
    *tasks, squeue, logs_of, done = printed.out.splitlines()
    assert [re.split(r" +", line)[0] for line in tasks] == [f"4242_{number}" for number in range(12)]
    assert tasks[0].endswith("quick_binarized-digits_jax_mean-field_cpu_float32_seed0")
    assert squeue.startswith("squeue --job 4242 ")
    assert "scancel 4242" in squeue
    assert logs_of.startswith(f"tail {results}/slurm/*.err ")
    assert done.startswith(f"python -m benchmarks results {results} ")

    # Each task runs its own job, and goes on from a checkpoint.
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4242")
    kept = [submitit.core.utils.DelayedSubmission.load(results / "slurm" / f"4242_{i}_submitted.pkl") for i in range(12)]
    sent = [Job.from_json(each.function.text) for each in kept]
    assert [job.record.stem for job in sent] == [line.split()[1] for line in tasks]
    assert {(job.resume, job.threads) for job in sent} == {(True, 4)}
    assert {each._timeout_countdown for each in kept} == {slurm.REQUEUES}


@pytest.mark.usefixtures("cluster")
def test_what_is_done_is_not_submitted_again_and_a_gpu_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", "jax", "--variational", "flow", "--results", str(tmp_path / "results")]
    (job,) = grid_of(flags.asked_of(arguments)).jobs
    records.write(job.blank(dataset=job.dataset()) | {"status": "ok", "reason": None}, tmp_path / "results")
    more = ["run", "--on", "slurm", "--time", "9", "--resume", "--quiet", *arguments]
    assert main(more) == 0
    assert not (tmp_path / "script").exists()
    assert main([*more, "--seed", "0", "1", "--device", "cpu", "cuda"]) == 0
    found = options((tmp_path / "script").read_text())
    assert (found["array"], found["gpus-per-node"], found["cpus-per-task"]) == ("0-2%3", "1", "1")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "--on slurm needs --time, the minutes of a task; a longer run is requeued and goes on."),
        ("--time 3", "--time is 3; it must be at least 4 minutes."),
        ("--time 60 --parallel 0", "--parallel is 0; it must be at least 1."),
        ("--time 60 --json", "--json needs the runs' end, for which --on slurm doesn't wait; leave out --json."),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_run_refuses(refused: Callable[..., str], tmp_path: Path, arguments: str, words: str) -> None:
    said = refused("run", "--on", "slurm", "--backend", "jax", *arguments.split(), f"--results={tmp_path / 'results'}")
    assert said.splitlines() == [words]


def test_without_slurm_or_where_sbatch_refuses_it_is_a_sentence(
    cluster: Callable[[str], None],
    refused: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["run", "--on", "slurm", "--time", "60", "--backend", "jax", f"--results={tmp_path / 'results'}"]
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        assert "--on slurm needs SLURM's sbatch, which isn't on the PATH" in refused(*arguments)
    cluster("echo sbatch: error: invalid partition specified: night >&2; exit 1")
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("sbatch refused the jobs: ")
    assert "invalid partition specified: night" in said


def test_a_task_ends_as_its_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = grid_of(flags.asked_of(["--backend", "jax", "--variational", "flow", "--results", str(tmp_path)])).jobs
    task = slurm.Task(job.as_json())

    def ending(code: int) -> Callable[..., int]:
        def end(job: Job, **options: object) -> int:
            options["heard"]({"kind": "said", "text": "my last words"})  # type: ignore[operator]
            return code

        return end

    monkeypatch.setattr(runs, "in_process", ending(-11))
    with pytest.raises(SystemExit) as ended:
        task()
    assert ended.value.code == 1
    (record,) = records.read_all(tmp_path)
    assert (record["status"], record["tail"]) == ("failed", ["my last words"])
    assert capsys.readouterr().err.endswith("failed jax: its process ended with code -11: my last words\n")

    # A run that SLURM's SIGTERM has stopped has not failed: what comes next says whether it is requeued.
    job.record.unlink()
    monkeypatch.setattr(runs, "in_process", ending(128 + signal.SIGTERM))
    monkeypatch.setattr(slurm, "STOPPED_SECONDS", 0)
    with pytest.raises(SystemExit) as ended:
        task()
    assert ended.value.code == 143
    assert records.read_all(tmp_path) == []


@pytest.fixture
def controlled() -> Iterator[list[psutil.Process]]:
    """Processes that are ended when the test has."""
    started: list[psutil.Process] = []
    yield started
    for process in started:
        if process.is_running():
            for each in [*process.children(recursive=True), process]:
                each.kill()


def wait_for(condition: Callable[[], object], *, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("first", [[], [signal.SIGTERM]], ids=["at the end of its time", "preempted"])
def test_a_task_that_gives_its_node_up_is_requeued_and_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controlled: list[psutil.Process], first: list[signal.Signals]
) -> None:
    """SLURM's signals reach the run's process, too; submitit's own executor on this machine stands for SLURM."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv(processes.PARENT, raising=False)
    arguments = [*TINY, "--backend", "pytorch", "--steps", "3000"]
    here, there = tmp_path / "here", tmp_path / "there"
    command = [sys.executable, "-m", "benchmarks", "run", "--quiet", *arguments, "--results", str(here)]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == 0

    (job,) = grid_of(flags.asked_of([*arguments, "--results", str(there)])).jobs
    there.mkdir(exist_ok=True)
    executor = submitit.LocalExecutor(folder=there / "slurm")
    executor.update_parameters(timeout_min=10)
    submitted = executor.submit(slurm.Task(slurm.elsewhere(job).as_json()))
    controller = psutil.Process(submitted._process.pid)
    controlled.append(controller)
    wait_for(job.checkpoint.exists)
    before = int(checkpoints.load(job.checkpoint).state["step"])
    processes_of_it = controller.children(recursive=True)
    for number in (*first, signal.SIGUSR2):
        for process in processes_of_it:
            if process.is_running():
                process.send_signal(number)
        time.sleep(0.5)
    wait_for(submitted.done)
    log = submitted.paths.stderr.read_text() + submitted.paths.stdout.read_text()
    begun = [int(step.replace(",", "")) for step in re.findall(r"begins at step ([\d,]+) of 3,000", log)]
    assert len(begun) == 2, log
    assert 0 == begun[0] < before <= begun[1] < 3000
    assert "Requeued job" in log
    assert_same_sweeps(there, here, runs=1)
