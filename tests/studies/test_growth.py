"""Cost as it grows: the plan, a point's figures, memory that is seen, disturbed points, the tables and the figure."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks.__main__ import main
from benchmarks.harness import environment, memory
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import RESNET, STANDARD, flat
from benchmarks.outputs import markdown
from benchmarks.studies import growth, skeleton
from benchmarks.studies.growth import AXES
from common import cache
from common.errors import UserError
from common.protocol import BACKENDS

TOY = STANDARD.replace(
    image_shape=(2, 4), latent_size=3, hidden_size=4, samples=60, sample_block=25, compile_from=STANDARD.training.steps + 1
)
MIB = 2**20

needs_the_systems_peak = pytest.mark.skipif(memory.peak() is None, reason="this system doesn't say a process's peak memory")


def point(axis: Any, value: int, family: str, *, seconds: float = 0.01) -> skeleton.Point:
    return {"axis": axis, "value": value, "family": family, "backend": "pytorch", "device": "cpu", "seconds": seconds}


POINT = point("batch", 8, "mean-field")


def test_the_plan_covers_every_value_and_the_backends_take_turns() -> None:
    points = list(growth.plan(growth.Arguments(backend=BACKENDS)).values())
    wanted = {(name, value, axis.family) for name, axis in AXES.items() for value in axis.values}
    assert len(points) == 2 * len(BACKENDS) * len(wanted)
    for repeat in range(2):
        for backend in BACKENDS:
            members = [p for p in points if (p["repeat"], p["backend"]) == (repeat, backend)]
            assert {(p["axis"], p["value"], p["family"]) for p in members} == wanted
    turns = [points[i : i + len(BACKENDS)] for i in range(0, len(points), len(BACKENDS))]
    for turn in turns:
        assert tuple(point["backend"] for point in turn) == BACKENDS
        assert len({(p["axis"], p["value"], p["family"], p["repeat"]) for p in turn}) == 1
    grown = {axis: (min(AXES[axis].values), max(AXES[axis].values)) for axis in AXES}
    assert grown.pop("channels") == (8, 64)
    assert grown.pop("blocks") == (1, 4)
    assert grown == {"batch": (8, 8192), "hidden": (128, 4096), "depth": (1, 16), "samples": (1, 5000)}


def test_a_point_grows_one_setting_alone() -> None:
    bases = {name: RESNET if name in ("channels", "blocks") else STANDARD for name in AXES}
    for name, axis in AXES.items():
        for value in axis.values:
            settings = growth.settings(point(name, value, axis.family))
            assert settings.replace(**{axis.setting: flat(bases[name])[axis.setting]}) == bases[name]
            assert flat(settings)[axis.setting] == value


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> int:
    """Steps of a call of training; a call of log weights is one estimate."""
    monkeypatch.setattr(growth, "MOST_STEPS", growth.LEAST_STEPS)
    monkeypatch.setattr(growth, "LEAST_BLOCKS", 1)
    return growth.LEAST_STEPS


@pytest.mark.parametrize("point", [POINT, point("samples", 60, "flow"), point("channels", 2, "mean-field")])
def test_a_points_figures_fit_together(point: skeleton.Point, few_steps: int) -> None:
    base = TOY.replace(network="resnet", image_shape=(4, 8)) if point["axis"] == "channels" else TOY
    found = growth.measure(point, base=base)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["rounds"] >= 4
    assert found["compile_s"] >= 0
    assert found["cores_busy"] > 0
    examples = found["examples_per_s"] * found["step_s"]
    assert examples == pytest.approx({"batch": 8, "samples": growth.IMAGES * 25, "channels": 128}[point["axis"]])
    assert found["floor_examples_per_s"] * found["floor_step_s"] == pytest.approx(examples)
    assert found["steps"] == (3 if point["axis"] == "samples" else few_steps)
    assert found["memory"]["device"] is None
    assert len(found["round_trips_ns"]) == 2 * found["rounds"]
    if memory.peak() is not None:
        assert found["memory"]["imported"] <= found["memory"]["set_up"] + 8 * MIB  # what earlier tests left may be freed
        assert found["memory"]["working"] > 0


@pytest.mark.parametrize(("samples", "steps"), [(1, 40), (60, 42), (2_000, 80)])
def test_a_call_of_few_samples_draws_them_often(samples: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(growth.estimators, "estimate", lambda *_, samples, **__: drawn.append(samples))
    settings = growth.settings(point("samples", samples, "flow"), TOY)
    case = growth.work_of(growth.Bench("pytorch", "flow", device="cpu", settings=settings), "samples")
    case.work()
    assert case.steps == steps
    assert sum(-(-k // 25) for k in drawn) == steps
    assert set(drawn) == {samples}


@pytest.mark.usefixtures("few_steps")
def test_what_an_idle_moment_costs_is_in_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the first work after one takes half a second."""
    idle, work_of = [False], growth.work_of

    def round_trip() -> None:
        idle[0] = True

    def wake() -> None:
        time.sleep(0.5 if idle[0] else 0)
        idle[0] = False

    def drowsy(*arguments: Any) -> Any:
        case = work_of(*arguments)

        def prepare() -> Any:
            launch = case.prepare()
            return lambda steps: (wake(), launch(steps))

        return dataclasses.replace(case, work=lambda: (wake(), case.work()), prepare=prepare)

    monkeypatch.setattr(growth.cores, "round_trip", round_trip)
    monkeypatch.setattr(growth, "work_of", drowsy)
    found = growth.measure(POINT | {"seconds": 0.0}, base=TOY)
    assert max(found["floor_step_s"], found["step_s"]) * found["steps"] < 0.5


@pytest.mark.usefixtures("few_steps")
def test_a_round_that_ends_with_the_cores_apart_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every other one does, and takes half a second longer."""
    trips = itertools.cycle([300.0, 500.0, 300.0, 300.0])
    coming, work_of = [next(trips)], growth.work_of

    def round_trip() -> float:
        found = coming[0]
        coming[0] = next(trips)
        return found

    def sleepy(*arguments: Any) -> Any:
        case = work_of(*arguments)
        return dataclasses.replace(case, work=lambda: (case.work(), time.sleep(0.5 if coming[0] > 400 else 0)))

    monkeypatch.setenv(growth.cores.WITHIN, "400")
    monkeypatch.setattr(growth.cores, "round_trip", round_trip)
    monkeypatch.setattr(growth, "work_of", sleepy)
    found = growth.measure(POINT, base=TOY)
    assert found["round_trips_ns"] == [300.0, 300.0] * found["rounds"]
    assert found["step_s"] * found["steps"] < 0.5


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("first", "later", "kept"), [(0.5, [0.0] * 4, 0.5), (0.0, [0.1, 0.3, 0.5, 0.7], 0.4)])
def test_others_are_seen_while_it_compiles_and_in_the_rounds(
    first: float, later: list[float], kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([first, *later])
    monkeypatch.setattr(growth, "others_since", lambda _: next(found))
    monkeypatch.setattr(growth.cores, "round_trip", lambda: None)
    assert growth.measure(POINT | {"seconds": 0.0}, base=TOY)["others_busy"] == pytest.approx(kept)


@needs_the_systems_peak
def test_memory_that_is_taken_and_given_back_is_seen_and_can_be_forgotten() -> None:
    """200 MiB, of which nothing is left when the question is asked."""
    memory.forget_peak()
    before = memory.resident()
    assert abs(memory.peak() - before) < 100 * MIB
    np.ones(200 * MIB, np.uint8)
    assert memory.resident() - before < 20 * MIB
    assert 195 * MIB < memory.peak() - before < 300 * MIB
    memory.forget_peak()
    assert abs(memory.peak() - before) < 20 * MIB


@needs_the_systems_peak
@pytest.mark.usefixtures("few_steps")
def test_a_point_that_allocates_more_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured() -> dict[str, Any]:
        return growth.measure(POINT, base=TOY)["memory"]

    plain = measured()
    work_of = growth.work_of

    def hungry(*arguments: Any) -> Any:
        case = work_of(*arguments)

        def work() -> None:
            case.work()
            np.ones(200 * MIB, np.uint8)

        return dataclasses.replace(case, work=work)

    monkeypatch.setattr(growth, "work_of", hungry)
    more = growth.taken(measured(), "working") - growth.taken(plain, "working")
    assert 180 * MIB < more < 230 * MIB


def test_where_the_system_refuses_the_peak_stays_the_whole_processs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for refusing in (tmp_path / "missing" / "clear_refs", tmp_path):  # none, and one that can't be written
        monkeypatch.setattr(memory, "CLEAR_REFS", refusing)
        memory.forget_peak()
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    assert memory.peak() is None
    memory.STATUS.write_text("Name:\tpython\n")
    assert memory.peak() is None


# Points that others disturbed


def test_what_others_disturbed_is_measured_again_in_processes_that_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    for loads, kept in (((0.1, 9), 0.1), ((0.5, 0.0, 9), 0.0), ((0.5, 0.3, 0.4), 0.3)):
        answers = iter(loads)

        def ask(target: str, question: Any, *, title: str, variables: dict[str, str], answers: Any = answers) -> Any:
            assert (target, question) == ("benchmarks.studies.growth:measure", POINT)
            assert variables == {cache.SWITCH: "0"}
            return {"others_busy": next(answers)}

        monkeypatch.setattr(growth.processes, "ask", ask)
        assert growth.run(POINT)["others_busy"] == kept


# Processor seconds, not a clock's: on a busy machine a second of work takes several.
WORK = "import time\nwhile time.process_time() < 1: pass\n"


def test_another_process_that_works_is_seen() -> None:
    before = growth.usage()
    code = WORK + "print('worked', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "worked\n"
        found = growth.others_since(before)  # as long as it's not this one's ended child
        other.communicate("\n")
    assert found > 0.4


def test_a_compiler_that_this_process_starts_is_no_other() -> None:
    code = "import subprocess, sys\nfrom benchmarks.studies.growth import usage\nbefore = usage()\n"
    code += f"subprocess.run([sys.executable, '-c', {WORK!r}], check=True)\nprint((usage() - before)[2])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.8


def test_a_cache_whose_size_the_system_does_not_tell_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("index0", "48K"), ("index1", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text("Data\n")
        (tmp_path / name / "level").write_text(f"{name[-1]}\n")
        if size:
            (tmp_path / name / "size").write_text(f"{size}\n")
    monkeypatch.setattr(growth, "CACHES", tmp_path)
    assert growth.caches() == {"L0": 48 * 1024}


def test_no_repeats_are_refused() -> None:
    for wrong in (growth.Arguments(repeats=0), growth.Arguments(axis=())):
        with pytest.raises(UserError, match="--repeats"):
            growth.check(wrong)


# What the report says


def synthetic(point: skeleton.Point) -> dict[str, Any]:
    """A point whose steps take a millisecond a unit of what grows, and compile 2 s."""
    return {
        "steps": 2,
        "rounds": 5,
        "step_s": 1e-3 * point["value"] * (1 + point["repeat"]),
        "step_s_iqr": 0.0,
        "examples_per_s": 1000.0,
        "floor_step_s": 5e-4 * point["value"],
        "floor_examples_per_s": 2000.0,
        "first_call_s": 3.0,
        "compile_s": 2.0 + point["repeat"],
        "setup_s": 1.0,
        "cores_busy": 1.5,
        "round_trips_ns": [300.0] * 8,
        "others_busy": 0.0,
        "faults_per_step": 512.0,
        "parameters": 1000,
        "flop": 1e6 * point["value"],
        "memory": {"imported": 100 * MIB, "set_up": 120 * MIB, "compiling": 180 * MIB, "working": 150 * MIB},
    }


def report_of(*, axes: tuple[Any, ...] = tuple(AXES), backends: tuple[str, ...] = BACKENDS) -> dict[str, Any]:
    points = growth.plan(growth.Arguments(axis=axes, backend=backends)).values()
    return {
        "environment": environment.describe(),
        "device": "cpu",
        "repeats": 2,
        "commits": ["abc"],
        "copy_bytes_per_s": 28e6,
        "caches": {"L2": 2**20},
        "page_bytes": 4096,
        "points": [point | synthetic(point) for point in points],
    }


def table(report: dict[str, Any], axis: Any) -> str:
    return markdown.page(growth.table(report, axis))


def test_the_command_ends_in_a_report_its_tables_and_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(growth.processes, "ask", lambda target, point, **_: synthetic(point))
    monkeypatch.setattr(growth, "host_copy", lambda cores: (lambda: None, 1e9))
    assert main(["study", "growth", "--axis", "depth", "--backend", "jax", "pytorch", "--results", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines if line[:1] == ["16"]] == [["16", "flow", name, "1,000"] for name in ("jax", "pytorch")]
    report = json.loads((tmp_path / "growth.json").read_text())
    assert [(p["value"], p["backend"]) for p in report["points"][:3]] == [(1, "jax"), (1, "pytorch"), (2, "jax")]
    assert imread(tmp_path / "growth.png").shape[0] > 100


def test_a_row_is_the_median_of_its_repeats_with_their_range() -> None:
    rows = growth.rows(report_of(), "hidden")
    assert len(rows) == 3 * len(AXES["hidden"].values)
    first, *_, last = rows
    assert first["step_s"] == pytest.approx(1.5e-3 * 128)
    assert first["ranges"]["step_s"] == pytest.approx([1e-3 * 128, 2e-3 * 128])
    assert (first["exponent"], last["exponent"]) == (None, pytest.approx(1.0))
    assert last["peak"] == 80 * MIB


def test_the_exponent_of_k_is_that_of_its_samples_whatever_a_call_draws() -> None:
    """Here 40 blocks at either K: 40 times 1 sample, 10 times 100. A hundred times the samples take twenty times as long."""
    one = {"axis": "samples", "value": 1, "steps": 40, "step_s": 0.1, "examples_per_s": 100.0}
    hundred = {"axis": "samples", "value": 100, "steps": 40, "step_s": 0.5, "examples_per_s": 500.0}
    assert growth.exponent(one, hundred) == pytest.approx(math.log(20) / math.log(100))


def test_the_tables_say_what_was_measured() -> None:
    report = report_of()
    line = table(report, "depth").splitlines()[-1]
    # 16 units: 24 ms a step, products 8 ms for 16 MFLOP, 28 bytes a parameter at 28 MB/s.
    assert line == ("| 16 | flow | tensorflow | 1,000 | 1.00 | 24 | 8 | 2 | 1 | 1.50 | 2.0 | 2.50 (2.00–3.00) | 0 | 80 |")
    assert "| 2,048 | mean-field | pytorch | 1,000 | 1.00 | 3.07e+03 | 1.02e+03 |" in table(report, "batch")
    assert "| 5,000 | flow | jax |" in table(report, "samples")
    for point in report["points"]:
        point["memory"] |= {"compiling": None, "working": None}
    assert "| 0 | not measured |" in table(report, "depth")
    assert table(report_of(axes=("batch",)), "depth") == "Not measured yet.\n"
    report["points"][0]["round_trips_ns"] = [290.0, 510.0]
    below = markdown.page(growth.remarks(report))
    assert "At both ends of each round a byte's round trip between two cores 290 to 510 ns" in below
    assert "1,024 KiB of L2" in below
    assert "On a GPU, and of its own memory: not measured." in below
    for point in report["points"]:
        point["memory"]["device"] = 64 * MIB
    report |= {"device": "cuda", "copy_bytes_per_s": None}
    assert table(report, "depth").splitlines()[-1].endswith(" | 64 |")
    whole = markdown.page(growth.parts(report))
    for words in ("On a GPU", "Adam's bytes", "GB/s"):  # the host's memory isn't what a GPU moves
        assert words not in whole


def test_an_earlier_reports_commits_are_said_and_else_its_own() -> None:
    report = report_of(axes=("batch",)) | {"commits": ["abc", "def"]}
    assert "commit abc, def." in markdown.page(growth.remarks(report))
    del report["commits"]
    report["environment"] |= {"commit": "0123456789abcdef", "dirty": False}
    assert "commit 0123456789ab." in markdown.page(growth.remarks(report))


def test_the_figure_has_a_column_for_each_axis(tmp_path: Path) -> None:
    growth.draw(report_of(), tmp_path / "growth.png")
    assert imread(tmp_path / "growth.png").shape[1] > 1000
