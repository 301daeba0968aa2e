"""The throughput suite, its tables and the roofline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import cases, cores, environment, floor, reports
from benchmarks.harness.presets import STANDARD
from benchmarks.outputs import markdown
from benchmarks.outputs.table import Table
from benchmarks.studies import skeleton
from benchmarks.studies import throughput as suite
from common import protocol
from common.clock import timed
from common.config import FAMILIES
from common.errors import UserError
from common.protocol import BACKENDS


@pytest.fixture(autouse=True, scope="module")
def timed_by_itself():
    """pytest-benchmark times nothing in a process that takes itself for one of several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        yield


@pytest.fixture(scope="module")
def folder(timed_by_itself: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real measurement of one benchmark leaves: the suite's saved run and the study's results."""
    folder = tmp_path_factory.mktemp("benchmarks")
    options = ("--seconds", "0.01", "--storage", str(folder / "storage"), "-k", "sampling and mean-field and 32")
    assert main(["study", "throughput", "--backend", "pytorch", "--results", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def saved(folder: Path) -> Path:
    (path,) = (folder / "storage").glob("*/*throughput-pytorch.json")
    return path


def test_a_benchmark_says_its_speed_and_its_floor(saved: Path) -> None:
    (benchmark,) = suite.read(saved)["benchmarks"]
    info = benchmark["extra_info"]
    assert (info["backend"], info["family"], info["kind"], info["batch"]) == ("pytorch", "mean-field", "sampling", 32)
    assert info["ms_per_step"] == pytest.approx(1e3 * benchmark["stats"]["median"] / info["steps"])
    assert info["examples_per_s"] == pytest.approx(32e3 / info["ms_per_step"])
    assert info["floor_ratio"] == pytest.approx(info["ms_per_step"] / info["floor_ms_per_step"])
    assert benchmark["stats"]["rounds"] >= 5
    assert len(info["round_trips_ns"]) >= 2, "before the first round and after the last"
    environment = suite.read(saved)["machine_info"]["environment"]
    assert environment["threads"]["cores"] >= 1
    assert environment["load"] >= 0


def test_a_part_of_the_suite_has_a_report_and_no_figure(folder: Path, saved: Path) -> None:
    report = reports.read("throughput", folder)
    assert report is not None
    assert report["rows"] == suite.merged(suite.rows_of(suite.read(saved)))
    assert len(suite.parts(report)) == 3, "the machine wasn't measured"
    assert not list(folder.glob("*.png"))


def test_saved_runs_are_shown_and_nothing_is_timed(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "plan", lambda asked: pytest.fail("nothing is to be timed"))
    assert main(["study", "throughput", "--saved", str(saved), str(saved), "--results", str(tmp_path)]) == 0
    (row,) = suite.rows_of(suite.read(saved))
    shown = capsys.readouterr().out
    assert f"{2 * row['rounds']}\n" in shown, "two runs of one place are two sweeps of one row"
    assert reports.commit(suite.read(saved)["machine_info"]["environment"]) in shown
    assert not list(tmp_path.iterdir())


def test_three_saved_runs_are_three_sweeps(saved: Path, tmp_path: Path) -> None:
    run, paths = json.loads(saved.read_text()), []
    for i, ms_per_step in enumerate((1.0, 1.0, 9.0)):
        run["benchmarks"][0]["extra_info"]["ms_per_step"] = ms_per_step
        (path := tmp_path / f"{i}.json").write_text(json.dumps(run))
        paths.append(path)
    table = next(part for part in suite.shown(suite.Arguments(saved=tuple(paths))) if isinstance(part, Table))
    assert table.rows[0][table.columns.index("ms/step (IQR)")].startswith("1 (")


def test_the_note_names_a_precision_that_all_rows_have() -> None:
    full, low = {"precision": "float32"}, {"precision": "bfloat16"}
    said = [suite.setting({"device": "cpu"}, rows) for rows in ([full], [low, low], [full, low])]
    assert said == ["cpu, float32", "cpu, bfloat16", "cpu, float32 unless a row says otherwise"]


def test_sweeps_are_merged_by_their_medians(folder: Path, saved: Path) -> None:
    (row,) = suite.rows_of(suite.read(saved))
    (row,) = suite.merged([row | {"ms_per_step": factor, "floor_ms_per_step": 0.5} for factor in (1.0, 3.0, 2.0)])
    assert (row["ms_per_step"], row["floor_ratio"], row["sweeps"]) == (2.0, 4.0, 3)
    assert len(row["round_trips_ns"]) >= 6
    report = reports.read("throughput", folder)
    assert report is not None
    text = markdown.page(suite.parts(report | {"rows": [row]}))
    assert "| sampling | mean-field | 32 | pytorch | 2 (" in text
    assert "| 4.00 | 4.00 |" in text, "its own floor is the only one"
    assert cores.said(row["round_trips_ns"]) in text


def test_backends_take_turns_in_each_sweep_and_precision() -> None:
    asked = suite.Arguments(backend=("jax", "pytorch"), precision=("full", "bfloat16"), sweeps=2)
    sweep = [(precision, backend) for precision in asked.precision for backend in asked.backend]
    assert [(point["precision"], point["backend"]) for point in suite.plan(asked).values()] == sweep * 2


def test_a_selection_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("-k", "nothing", "--storage", str(tmp_path), "--results", str(tmp_path / "results"))
    assert main(["study", "throughput", "--backend", "pytorch", *options]) == 2
    assert "No benchmark was timed" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_timed_call_of_training_is_a_runs_chunk() -> None:
    assert {batch: cases.chunk_steps(batch) for batch in cases.BATCHES} == {32: 100, 128: 100, 1024: 12, 8192: 1}


def test_what_follows_the_noise_has_a_row_a_sample_and_all_but_the_pixels_three_products() -> None:
    config = STANDARD.replace(variational="flow", objective_samples=3)
    forward = floor.forward(config.model, batch=128, samples=3)
    once = {"encoder.first", "encoder.second", "encoder.out", *(f"flow.blocks.{i}.made.context" for i in range(2))}
    assert {name: rows for name, (rows, *_) in forward.items()} == {name: 128 if name in once else 384 for name in forward}
    every = floor.products(config)
    assert len(every) == 3 * len(forward) - 1
    assert set(forward.values()) < set(every)


def test_a_precision_that_the_device_lacks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "throughput", "--precision", "full", "tf32"]) == 2
    assert "tf32" in capsys.readouterr().err


# The machine


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_within_the_device_moves_its_bytes(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's, done on the CPU: one that a compiler left out, or that isn't waited for, would take a launch's time."""
    probes: Any = protocol.probes(backend)
    own = probes.copy
    monkeypatch.setattr(probes, "copy", lambda *, size, device: own(size=size, device={"cuda": "cpu"}[device]))

    def seconds(size: int) -> float:
        call, moved = cases.copy(backend, "cuda", size=size)
        assert moved == size
        call()
        return min(timed(call, synchronize=lambda: None)[1] for _ in range(5))

    assert seconds(2**27) > 5 * seconds(2**12)


# The roofline


def report(tmp_path: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {"kind": "matrix", "backend": "jax", "ms_per_step": 100.0, "rate": 1.5e11},
        {"kind": "copy", "backend": "jax", "ms_per_step": 20.0, "rate": 2e10},
        {"kind": "launch", "backend": "jax", "ms_per_step": 0.01, "rate": 0.0},
    ]
    rows += [
        {
            "kind": "train",
            "backend": "jax",
            "family": family,
            "batch": batch,
            "ms_per_step": batch / 10.0,
            "floor_ms_per_step": 1.0,
        }
        for family in FAMILIES
        for batch in cases.BATCHES
    ]
    reports.write("throughput", {"device": "cpu", "rows": rows}, tmp_path, environment=environment.describe())
    found = reports.read("throughput", tmp_path)
    assert found is not None
    return found


def test_a_step_is_held_against_the_fastest_floor_of_its_own_kind_and_precision() -> None:
    same = {"kind": "train", "family": "flow", "batch": 32, "rounds": 5, "iqr_ms_per_step": 0.0, "examples_per_s": 1.0}

    def row(backend: str, precision: str, ms: float, floor: float) -> dict[str, Any]:
        return same | {
            "backend": backend,
            "precision": precision,
            "ms_per_step": ms,
            "floor_ms_per_step": floor,
            "floor_ratio": ms / floor,
        }

    rows = [row("jax", "float32", 6, 4), row("pytorch", "float32", 9, 3), row("pytorch", "tf32", 4, 1)]

    def shown(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
        found = {"rows": rows, "device": "cpu", "environment": environment.describe()}
        table = suite.call_parts(found)[0]
        assert isinstance(table, Table)
        return [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]

    lines = shown(rows)
    assert [line["precision"] for line in lines] == ["float32", "float32", "tf32"]
    ratios = [(line["step / floor"], line["step / fastest floor"]) for line in lines]
    assert ratios == [("3.00", "3.00"), ("1.50", "2.00"), ("4.00", "4.00")]
    assert "precision" not in shown(rows[:2])[0]


def test_another_precision_is_not_in_the_roofline(tmp_path: Path) -> None:
    whole = report(tmp_path)
    before = suite.training_steps(whole), suite.limits(whole)
    whole["rows"] += [row | {"precision": "tf32", "rate": 1e18} for row in whole["rows"]]
    assert (suite.training_steps(whole), suite.limits(whole)) == before


def test_a_steps_flop_and_bytes() -> None:
    """Of a mean-field model that is small enough to count by hand: 2 pixels, 1 latent, 1 hidden unit, batch 3."""
    config = STANDARD.replace(image_shape=(1, 2), latent_size=1, hidden_size=1, batch_size=3)
    # Inputs and outputs of its six layers: three products each, but no dX for the pixels.
    sizes = [(2, 1), (1, 1), (1, 2), (1, 1), (1, 1), (1, 2)]
    macs = [3 * i * o for i, o in sizes]
    assert floor.flop(config) == 2 * (3 * sum(macs) - macs[0])
    touched = [3 * i + i * o + 3 * o for i, o in sizes]
    parameters = sum(i * o + o for i, o in sizes)
    assert floor.moved(config) == 4 * (3 * sum(touched) - touched[0] + 7 * parameters)


def test_the_roofline_is_drawn_from_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["study", "throughput", "--results", str(tmp_path), "--draw"]
    assert main(arguments) == 2
    assert "make study-throughput" in capsys.readouterr().err
    whole = report(tmp_path)
    assert main(arguments) == 0
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    intensities = [step["intensity"] for step in suite.training_steps(whole) if step["family"] == "flow"]
    assert intensities == sorted(intensities), "a larger batch shares the weights' traffic"
    _, show = skeleton.blocks()["machine-cuda"]
    for device, figure in (("cpu", "roofline.png"), ("cuda", "roofline-cuda.png")):
        text = markdown.page(show(whole | {"device": device}))
        assert f"](figures/{figure})" in text
        assert "| an empty launch | jax | 10 µs |" in text
    whole["rows"] = [row for row in whole["rows"] if row["kind"] != "copy"]
    with pytest.raises(UserError, match="lacks"):
        suite.draw(whole, tmp_path / "x.png")
