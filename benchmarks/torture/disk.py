"""Disks that are full, too small or not to be written, and homes that aren't there: a sentence or success, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import presets, records
from benchmarks.harness.jobs import Job
from benchmarks.harness.record_schema import Record
from benchmarks.torture.running import PATIENCE, Ended, Started
from benchmarks.torture.tried import Tell, Tried, choices
from common import checkpoints, data, parameters
from common.checkpoints import Checkpoint
from common.errors import UserError
from common.protocol import BACKENDS

TITLE = (
    "full disk at every size from 4 KB up, `ulimit -f`, read-only, `chattr +i`, no HOME, no TMPDIR, "
    "tiny /dev/shm in each backend"
)
AT_LEAST = 107  # all of them
BACKEND = BACKENDS[0]  # of the scenes about files, which no backend writes
SEEDS = (0, 1)
SETTINGS: dict[str, Any] = {
    "latent_size": 2,
    "hidden_size": 8,
    "steps": 40,
    "chunk": 20,
    "validation_interval": 20,
    "log_interval": 20,
    "warm_up": 10,
    "samples": 5,
    "images": 20,
}

# Makes the process as the scene wants it, and becomes the command. Its argument: {limit, gone, stdout, mounts}.
PRELUDE = """
import json, os, resource, subprocess, sys
wanted, arguments = json.loads(sys.argv[1]), sys.argv[2:]
for name in wanted["gone"]:
    os.environ.pop(name, None)
if wanted["stdout"]:
    os.dup2(os.open(wanted["stdout"], os.O_WRONLY), 1)
if wanted["limit"] is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (wanted["limit"], wanted["limit"]))
command = [sys.executable, "-m", "benchmarks", *arguments]
if wanted["mounts"]:
    mounts = " && ".join(f"mount -t tmpfs -o {options} tmpfs {place}" for place, options in wanted["mounts"].items())
    command = ["unshare", "-m", "sh", "-c", mounts + ' && exec "$@"', "sh", *command]
os.execvp(command[0], command)
"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A command in a place. `prepare` makes the place around the results folder, and undoes it afterwards."""

    name: str
    prepare: Callable[[Path], contextlib.AbstractContextManager[None]] = lambda results: contextlib.nullcontext()
    backend: str = BACKEND
    arguments: tuple[str, ...] = ()  # RESULTS stands for the results folder; without any, the sweep
    limit: int | None = None  # the longest file in bytes
    gone: tuple[str, ...] = ()  # variables
    variables: dict[str, str] = field(default_factory=dict)
    stdout: str | None = None
    mounts: dict[str, str] = field(default_factory=dict)  # for the command alone
    root: bool = False  # whether only root can make it


def scenes() -> list[Scene]:
    """All of them; a disk of so many KB has room for so much more than the checkpoint that is there."""
    found = [Scene(name=f"{free} KB free", prepare=small(free), root=True) for free in range(4, 204, 4)]
    found += [Scene(name=f"files of at most {size} KB", limit=1024 * size) for size in range(0, 80, 4)]
    found += [
        Scene(name="a results folder that is read-only", prepare=read_only, root=True),
        Scene(name="a results folder with chattr +i", prepare=immutable("."), root=True),
        Scene(name="a checkpoint with chattr +i", prepare=immutable("*.h5"), root=True),
        Scene(name="no HOME", gone=("HOME", "VAEBENCH_CACHE_DIR")),
        Scene(name="a HOME that isn't there", gone=("VAEBENCH_CACHE_DIR",), variables={"HOME": "/nowhere"}),
        Scene(name="a HOME that is a file", gone=("VAEBENCH_CACHE_DIR",), variables={"HOME": "/dev/null"}),
        Scene(name="no TMPDIR", gone=("TMPDIR",)),
        Scene(name="a TMPDIR that isn't there", variables={"TMPDIR": "/nowhere"}),
        Scene(name="a cache that is a file", variables={"VAEBENCH_CACHE_DIR": "/dev/null"}),
    ]
    for size in (4, 8, 16):
        mounts = {"/mnt": f"size={size}k"}
        found.append(Scene(name=f"a TMPDIR of {size} KB", variables={"TMPDIR": "/mnt"}, mounts=mounts, root=True))
    for backend in BACKENDS:
        shared = {"/dev/shm": "size=4k"}
        cache = {"/mnt": "size=64k"}
        found += [
            Scene(name=f"{backend}, /dev/shm of 4 KB", backend=backend, mounts=shared, root=True),
            Scene(name=f"{backend}, a cache of 64 KB", backend=backend, mounts=cache, variables=CACHE, root=True),
            Scene(
                name=f"{backend}, a cache that is read-only", backend=backend, mounts={"/mnt": "ro"}, variables=CACHE, root=True
            ),
            Scene(name=f"{backend}, 48 KB free", backend=backend, prepare=small(48), root=True),
        ]
    writers = {
        "run --save-config": ("run", "--dry-run", "--save-config", "RESULTS/saved.toml"),
        "results --output": ("results", "RESULTS", "--output", "RESULTS/table.csv"),
        "report": ("report", "RESULTS", "--output", "RESULTS/page.html"),
        "export": ("export", "CHECKPOINT", "--to", "pytorch", "--output", "RESULTS/weights.safetensors"),
        "show": ("show", "CHECKPOINT", "--output", "RESULTS/pictures"),
    }
    found += [
        Scene(name=f"{name} with {free} KB free", arguments=arguments, prepare=small(free), root=True)
        for name, arguments in writers.items()
        for free in (0, 8)
    ]
    readers = {"--help": ("--help",), "run --dry-run": ("run", "--dry-run"), "results --csv": ("results", "RESULTS", "--csv")}
    found += [
        Scene(name=f"{name} on a full stdout", arguments=arguments, stdout="/dev/full") for name, arguments in readers.items()
    ]
    return found


CACHE = {"VAEBENCH_CACHE_DIR": "/mnt/cache"}


def small(free: int) -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """A disk of the results folder's own, with so many KB beside the files that are there."""

    @contextlib.contextmanager
    def prepare(results: Path) -> Iterator[None]:
        pages = sum(-(-path.stat().st_size // 4096) for path in results.iterdir())
        kept = results.with_name("kept")
        shutil.copytree(results, kept)
        with _mounted(results, f"size={4 * pages + max(free, 1)}k"):
            for path in kept.iterdir():
                shutil.copy(path, results)
            if not free:
                _fill(results / "filler")
            yield

    return prepare


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(results: Path) -> Iterator[None]:
    with small(1000)(results):
        subprocess.run(["mount", "-o", "remount,ro", str(results)], check=True)
        yield


def immutable(pattern: str) -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """The results folder or its files of this pattern can't be changed, not even by root."""

    @contextlib.contextmanager
    def prepare(results: Path) -> Iterator[None]:
        places = [str(path) for path in ([results] if pattern == "." else results.glob(pattern))]
        subprocess.run(["chattr", "+i", *places], check=True)
        try:
            yield
        finally:
            subprocess.run(["chattr", "-i", *places], check=True)

    return prepare


# --- the rounds ---


def rounds(count: int, *, seed: int, folder: Path, tell: Tell) -> Tried:
    tried, every = Tried(), scenes()
    for number in range(count):
        turn, place = divmod(number, len(every))
        scene = every[choices(seed, turn).permutation(len(every))[place]]
        outcome, faults = played(scene, folder / str(number))
        tried.add(outcome, faults=[f"{scene.name}: {fault}" for fault in faults])
        tell(1)
    return tried


def played(scene: Scene, folder: Path) -> tuple[str, list[str]]:
    """(outcome, faults) of the scene, in a new folder."""
    results = folder / "results"
    results.mkdir(parents=True)
    checkpoint = begun(results, backend=scene.backend)
    if scene.arguments:
        records.write(runs_record(results, scene.backend), results)
    if scene.root and os.geteuid():
        return "left out: only root can make it", []
    wanted = {"limit": scene.limit, "gone": scene.gone, "stdout": scene.stdout, "mounts": scene.mounts}
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(scene.prepare(results))
        except (OSError, subprocess.CalledProcessError):  # a container forbids mounts, a file system has no chattr
            return "left out: this machine can't make it", []
        program = ("-c", PRELUDE, json.dumps(wanted))
        variables = {"VAEBENCH_CACHE_DIR": str(folder / "cache"), **scene.variables}
        names = {"RESULTS": str(results), "CHECKPOINT": str(checkpoint)}
        arguments = [_named(argument, names) for argument in scene.arguments or sweep(scene.backend)]
        started = Started(*arguments, program=program, variables=variables)
        ended = started.end(seconds=PATIENCE)
        faults = [*ended.faults(), *(f"{name} runs on" for name in started.left_over(seconds=5)), *judged(ended, scene)]
        faults += lost(checkpoint) + left(results) + ([] if scene.arguments else of_sweep(ended, results))
    return ("done" if ended.code == 0 else "a sentence, exit code 2") if not faults else "a fault", faults


def _named(argument: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        argument = argument.replace(name, value)
    return argument


def sweep(backend: str) -> list[str]:
    """Two runs: the first one goes on from the checkpoint of `begun`."""
    flags = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    seeds = [str(seed) for seed in SEEDS]
    chosen = ["--backend", backend, "--variational", "mean-field", "--seed", *seeds]
    return ["run", "--resume", "--quiet", *chosen, *flags, "--results", "RESULTS"]


def job(results: Path, backend: str) -> Job:
    digits = data.load("binarized-digits", data_dir=None, binarize=None)
    config = presets.preset("quick").replace(**SETTINGS, seed=SEEDS[0], image_shape=digits.image_shape)
    return Job(backend, "quick", digits.name, None, config, results=str(results), resume=True)


def begun(results: Path, *, backend: str) -> Path:
    """The path of the first run's checkpoint, at step 0."""
    own = job(results, backend)
    digits, config = own.dataset(), own.config
    initial = parameters.initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(64))
    state = parameters.fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    checkpoints.save(Checkpoint(config, backend, "quick", digits.name, digits.sha256, state), own.checkpoint)
    return own.checkpoint


def runs_record(results: Path, backend: str) -> Record:
    return job(results, backend).blank(dataset=None) | {"status": "failed", "reason": "It is an example."}


def judged(ended: Ended, scene: Scene) -> list[str]:
    """Another exit code than 0 or 2, and no sentence where it is 2."""
    if ended.code not in (0, 2):
        return [f"exit code {ended.code}: {ended.error[-200:]}"]
    last = ended.error.strip().splitlines()[-1:]
    said = bool(last) and last[0].isprintable() and last[0].endswith((".", "?"))
    return [] if ended.code == 0 or said else [f"no sentence: {ended.error[-200:]}"]


def lost(checkpoint: Path) -> list[str]:
    try:
        checkpoints.load(checkpoint)
    except UserError as error:
        return [f"the checkpoint is lost: {error}"]
    return []


def left(results: Path) -> list[str]:
    return [f"{path.name} is left over" for path in results.iterdir() if path.name.startswith(".")]


def of_sweep(ended: Ended, results: Path) -> list[str]:
    """Records that aren't whole or are missing, and a run that was begun on a disk that the run before it found full."""
    found = records.read_all(results)
    if ended.code == 0:
        fine = [record["status"] for record in found] == ["ok"] * len(SEEDS)
        return [] if fine else [f"exit code 0, with {len(found)} records"]
    full = f"seed{SEEDS[0]}" in ended.error and "Cannot write" in ended.error
    return ["the sweep went on"] if full and f"seed{SEEDS[1]}" in ended.error else []
