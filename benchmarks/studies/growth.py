"""`python -m benchmarks growth`: examples/s, compile time and peak memory as batch, hidden size, flow depth or K grows.

One setting grows at a time, from `standard`'s. Each point is measured in a fresh process, and the backends take turns at each
value: A B C at the first, A B C at the second …, all of it as often as `--repeats` says. For K the work is that of `evaluate`,
log weights streamed by the estimator in blocks of samples; for the others it is a chunk of training.

Memory is the process's resident set, of which the system keeps the highest since it was last asked to forget it. What the model
and its work take is the highest while it compiles and works, less what the process held after importing the framework. The
floor's own matrices are made after that. On a GPU its framework tells the most of the device's own memory that it had.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import json
import math
import mmap
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import tyro

from benchmarks.harness import cores, environment, reports
from benchmarks.harness.cases import Bench, Case, host_copy
from benchmarks.harness.cli import parse, usable
from benchmarks.harness.floor import forward
from benchmarks.harness.presets import STANDARD
from benchmarks.studies import growth_report
from benchmarks.studies.roofline import flop
from common import cache, estimators, protocol
from common.clock import timed
from common.config import Config, Device, Variational
from common.errors import UserError
from common.files import write_text
from common.parameters import shapes

AxisName = Literal["batch", "hidden", "depth", "samples"]


@dataclass(frozen=True)
class Axis:
    """What grows, and in which family: one each keeps the whole within an hour on two cores."""

    setting: str  # of common/config.py
    values: tuple[int, ...]
    families: tuple[Variational, ...]


AXES: dict[AxisName, Axis] = {
    "batch": Axis("batch_size", (8, 32, 128, 512, 2048, 8192), ("mean-field",)),
    "hidden": Axis("hidden_size", (128, 256, 512, 1024, 2048, 4096), ("mean-field",)),
    "depth": Axis("flow_depth", (1, 2, 4, 8, 16), ("flow",)),
    "samples": Axis("samples", (1, 10, 100, 1000, 5000), ("flow",)),
}

CALL_FLOP = 2e10  # a timed call trains for as many steps as have so many: one synchronisation around them all
LEAST_STEPS, MOST_STEPS = 4, 256
IMAGES = 10  # that K samples each are drawn for
LEAST_BLOCKS = 40  # a timed call draws so many, or K's: one alone, 4 ms, would be at the mercy of what interrupts it
LEAST_ROUNDS = 4
OTHERS_BOUND, TRIES = 0.2, 3  # a point during which others had more of a core than this is measured again
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Point:
    """One measurement."""

    axis: AxisName
    value: int
    family: Variational
    backend: str
    repeat: int

    def __str__(self) -> str:
        return f"{self.axis}-{self.value}_{self.family}_{self.backend}_{self.repeat}"

    def settings(self, base: Config = STANDARD) -> Config:
        """`base`, but for what grows."""
        return base.replace(**{AXES[self.axis].setting: self.value})


def plan(axes: tuple[AxisName, ...], *, backends: tuple[str, ...], repeats: int) -> list[Point]:
    """Every point, in the order in which they are measured."""
    return [
        Point(axis, value, family, backend, repeat)
        for repeat in range(repeats)
        for axis in axes
        for value in AXES[axis].values
        for family in AXES[axis].families
        for backend in backends
    ]


# --- the worker: one point ---


def forget_peak() -> None:
    """Let the system's highest resident set start anew; where it can't, the highest stays the whole process's."""
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5", encoding="ascii")


def peak() -> int | None:
    """Bytes: the highest resident set since `forget_peak`; None where the system doesn't say (most Linux kernels do)."""
    # Not `ru_maxrss`: a child begins with its parent's.
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


@dataclass(frozen=True)
class Usage:
    """Seconds of the clock; of all cores' work, for whatever process or another machine on the host; and of this process's and
    its ended children's, a compiler's among them."""

    clock: float
    cores: float
    own: float

    @classmethod
    def now(cls) -> Usage:
        times = psutil.cpu_times()._asdict()
        guests = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is the user's too
        return cls(
            clock=time.perf_counter(),
            cores=sum(seconds for name, seconds in times.items() if name not in guests),
            own=sum(os.times()[:4]),
        )

    def others_since(self, before: Usage) -> float:
        """Cores that others kept busy."""
        return max((self.cores - before.cores - self.own + before.own) / (self.clock - before.clock), 0.0)


def page_faults() -> int:
    """Pages of memory that the system has mapped for this process so far, none of them read from a disk."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident() -> int:
    """Bytes, now, when what was freed has been given back to the system."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it, and it alone needs it
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def work_of(bench: Bench, axis: AxisName) -> Case:
    """What is timed of a bench of a point's settings."""
    config = bench.config
    if axis != "samples":
        steps = int(np.clip(CALL_FLOP / flop(config), LEAST_STEPS, MOST_STEPS))
        return bench.case("train", config.training.batch_size, steps=steps)
    evaluation, images = config.evaluation, np.arange(IMAGES, dtype=np.int32)
    arguments = {"image_batch": evaluation.image_batch, "sample_block": evaluation.sample_block}
    block = min(evaluation.samples, evaluation.sample_block)
    blocks = -(-evaluation.samples // block)
    times = -(-LEAST_BLOCKS // blocks)

    def work() -> None:
        for _ in range(times):
            estimators.estimate(
                bench.session,
                bench.handle,
                images=images,
                samples=evaluation.samples,
                seed=0,
                report=lambda done: None,
                **arguments,
            )

    products = list(forward(config.model, batch=IMAGES, samples=block).values())
    return Case(
        work=work,
        synchronize=bench.session.synchronize,
        steps=times * blocks,
        examples=IMAGES * block,
        prepare=lambda: bench.products(products),
    )


def measure(point: Point, *, device: Device, seconds: float, base: Config = STANDARD) -> dict[str, Any]:
    """The point's figures, measured in this process.

    examples_per_s (for K, samples · images a second) and floor_examples_per_s are of the median round. first_call_s is that of
    a first call of `steps` steps, compile_s what it took beyond a median one. cores_busy is the process's time on all cores
    over the clock's, faults_per_step the pages that the system had to map; both in the second and third call, which are no
    rounds. others_busy is what others had of the cores, in the first three calls or a mean round, the greater; round_trips_ns
    are how far apart these were at both ends of each round. `parameters` counts the arrays' elements, masked ones too. Memory
    in bytes: `imported` with the framework imported; `set_up` with the data, the state and the model placed; `compiling` and
    `working` the highest during the first call and during the next two; None where the system doesn't say; `device` the most of
    a GPU's own up to then, else None.
    """
    protocol.load(point.backend)
    imported = resident()
    settings = point.settings(base)
    bench, setup_s = timed(
        lambda: Bench(point.backend, point.family, device=device, settings=settings), synchronize=lambda: None
    )
    case = work_of(bench, point.axis)
    set_up = resident()
    begun = Usage.now()
    forget_peak()
    first_s = case.seconds()
    compiling = peak()
    forget_peak()
    cpu_s, faults = time.process_time(), page_faults()
    warm_s = case.seconds() + case.seconds()
    cpu_s, faults, working = time.process_time() - cpu_s, page_faults() - faults, peak()
    others_first = Usage.now().others_since(begun)
    cores_busy, device_peak = cpu_s / warm_s, protocol.probes(point.backend).device_peak(device)
    case.floor_seconds()  # compiles

    def once() -> tuple[float, float, float]:
        case.least(1)  # the first work after an idle moment takes some ms more
        before = Usage.now()
        return case.floor_seconds(), case.seconds(), Usage.now().others_since(before)

    floors: list[float] = []
    rounds: list[float] = []
    others: list[float] = []
    trips: list[cores.RoundTrip] = []
    while sum(floors) + sum(rounds) < seconds or len(rounds) < LEAST_ROUNDS:
        (floor_s, round_s, others_s), ends = cores.together(once)  # near at a point's ends isn't near within
        floors.append(floor_s)
        rounds.append(round_s)
        others.append(others_s)
        trips.extend(ends)
    median, examples = statistics.median(rounds), case.steps * case.examples
    low, high = np.percentile(rounds, [25, 75])
    return {
        "steps": case.steps,
        "rounds": len(rounds),
        "step_s": median / case.steps,
        "step_s_iqr": float(high - low) / case.steps,
        "examples_per_s": examples / median,
        "floor_step_s": statistics.median(floors) / case.steps,
        "floor_examples_per_s": examples / statistics.median(floors),
        "first_call_s": first_s,
        "compile_s": max(first_s - median, 0.0),
        "setup_s": setup_s,
        "cores_busy": cores_busy,
        "others_busy": max(others_first, statistics.mean(others)),
        "round_trips_ns": trips,
        "faults_per_step": faults / (2 * case.steps),
        "parameters": sum(math.prod(shape) for shape in shapes(bench.config.model).values()),
        "flop": flop(bench.config) if point.axis != "samples" else None,
        "memory": {"imported": imported, "set_up": set_up, "compiling": compiling, "working": working, "device": device_peak},
    }


def worker(arguments: list[str]) -> int:
    """Stdin: the point, as JSON. Stdout: its figures."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a framework prints is no answer
    asked = json.loads(sys.stdin.read())
    print(json.dumps(measure(Point(**asked["point"]), device=asked["device"], seconds=asked["seconds"])), file=answers)
    return 0


def in_process(point: Point, *, device: Device, seconds: float) -> dict[str, Any]:
    """`measure` in a fresh process. Raises `UserError` where that fails."""
    asked = {"point": dataclasses.asdict(point), "device": device, "seconds": seconds}
    command = [sys.executable, "-m", "benchmarks", "growth-worker"]
    answer = subprocess.run(
        command,
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=environment.ROOT,
        env=os.environ | {cache.SWITCH: "0"},  # what compiling takes is measured
    )
    if answer.returncode:
        raise UserError(f"The process of {point} ended with code {answer.returncode}; its message stands above.")
    return dict(json.loads(answer.stdout))


# --- the command ---


@dataclass
class Growth:
    axis: Annotated[tuple[AxisName, ...], tyro.conf.arg(help="What grows; all four by default.")] = tuple(AXES)
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help="One or more; all by default.")] = ()
    device: Annotated[Device, tyro.conf.arg(help="Where the models live.")] = "cpu"
    repeats: Annotated[int, tyro.conf.arg(help="Fresh processes a point, each after all the others' turn.")] = 2
    seconds: Annotated[float, tyro.conf.arg(help="Time for the rounds of one point; there are at least four.")] = 1.0
    results: Annotated[Path, tyro.conf.arg(help="Folder of the points, the report and its figure.")] = field(
        default_factory=lambda: Path("results/growth")
    )
    resume: Annotated[bool, tyro.conf.arg(help="Keep the points that are in the results folder.")] = False
    draw: Annotated[Path | None, tyro.conf.arg(help="Draw this folder's report again, and measure nothing.")] = None


def main(arguments: list[str]) -> int:
    asked = parse(Growth, arguments, command="growth", description="Speed, compile time and memory as the sizes grow.")
    name = reports.of_device("growth", asked.device)
    if asked.draw is not None:
        found = reports.read(name, asked.draw)
        if found is None:
            raise UserError(f"There is no report '{name}' in {asked.draw}; `make growth` measures one.")
        growth_report.draw(found, asked.results / f"{name}.png")
        print(asked.results / f"{name}.png")
        return 0
    if asked.repeats < 1 or not asked.axis:
        raise UserError("There is nothing to measure; give --repeats 1 or more, and at least one --axis.")
    cores.within()  # refused here, not in each point
    points = measured(plan(asked.axis, backends=usable(asked.backend, device=asked.device), repeats=asked.repeats), asked)
    content = {
        "device": asked.device,
        "seconds": asked.seconds,
        "repeats": asked.repeats,
        "images": IMAGES,
        "commits": sorted({point["commit"] for point in points}),
        "copy_bytes_per_s": copy_bytes_per_s() if asked.device == "cpu" else None,
        "caches": caches(),
        "page_bytes": mmap.PAGESIZE,
        "points": points,
    }
    path = reports.write(name, content, asked.results)
    report = reports.read(name, asked.results)
    assert report is not None
    growth_report.draw(report, path.with_suffix(".png"))
    for axis in asked.axis:
        print(f"\n{axis}\n\n{growth_report.table(report, axis=axis)}")
    print(f"The report is {path}, its figure {path.with_suffix('.png')}.", file=sys.stderr)
    return 0


def measured(points: list[Point], asked: Growth) -> list[dict[str, Any]]:
    """Each point with its figures and the commit that measured it, in a file of its own, by which a stopped command goes on."""
    described = environment.describe(asked.device)
    commit = reports.commit(described)
    place = {key: described[key] for key in ("versions", "machine")}  # a point of another is measured anew
    result = []
    for number, point in enumerate(points, 1):
        path = asked.results / reports.of_device("points", asked.device) / f"{point}.json"
        what = dataclasses.asdict(point) | {"device": asked.device, "seconds": asked.seconds}
        found = kept(path, what | place) if asked.resume else None
        if found is None:
            print(f"{number} of {len(points)}: {point}", file=sys.stderr)
            found = what | place | {"commit": commit} | quietest(point, asked)
            write_text(path, json.dumps(found, allow_nan=False) + "\n")
        result.append({key: value for key, value in found.items() if key not in place})
    return result


def quietest(point: Point, asked: Growth) -> dict[str, Any]:
    """The first of TRIES measurements that others left alone, or the one that they disturbed least."""
    tries: list[dict[str, Any]] = []
    while len(tries) < TRIES and all(found["others_busy"] > OTHERS_BOUND for found in tries):
        tries.append(in_process(point, device=asked.device, seconds=asked.seconds))
    return min(tries, key=lambda found: float(found["others_busy"]))


def kept(path: Path, what: dict[str, Any]) -> dict[str, Any] | None:
    """The point that this file holds, if it was measured as `what` says. Raises `UserError` where it can't be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found) if found | what == found else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"The point {path} can't be read ({error}); remove it, or leave out --resume.") from error


def copy_bytes_per_s() -> float:
    """Read and written by all cores; the median of five copies."""
    copy, copied = host_copy(environment.cores())
    return copied / statistics.median(timed(copy, synchronize=lambda: None)[1] for _ in range(5))


def caches() -> dict[str, int]:
    """Bytes of each data cache of the first core, by level, of those whose size the system tells."""
    found = {}
    for folder in sorted(CACHES.glob("index*")):
        try:
            kind, level, size = ((folder / name).read_text(encoding="ascii").strip() for name in ("type", "level", "size"))
        except FileNotFoundError:  # a virtual machine's may lack it
            continue
        if kind != "Instruction":
            found[f"L{level}"] = int(size.removesuffix("K")) * 1024
    return found
