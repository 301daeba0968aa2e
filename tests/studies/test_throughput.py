"""The throughput suite, the comparison of two revisions and the roofline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import cases, cores, environment, floor, reports
from benchmarks.harness.presets import STANDARD
from benchmarks.studies import roofline
from benchmarks.studies import throughput as suite
from common import protocol
from common.clock import timed
from common.errors import UserError
from common.protocol import BACKENDS


@pytest.fixture(autouse=True, scope="module")
def timed_by_itself():
    """pytest-benchmark times nothing in a process that takes itself for one of several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        yield


@pytest.fixture(scope="module")
def saved(timed_by_itself: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of one benchmark."""
    storage = tmp_path_factory.mktemp("benchmarks")
    options = ("--seconds", "0.01", "--storage", str(storage), "-k", "sampling and mean-field and 32")
    assert main(["throughput", "--backend", "pytorch", *options]) == 0
    (path,) = storage.glob("*/*throughput-pytorch.json")
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


def test_sweeps_are_merged_by_their_medians(saved: Path, tmp_path: Path) -> None:
    paths = []
    for i, factor in enumerate((1.0, 3.0, 2.0)):
        run = json.loads(saved.read_text())
        (benchmark,) = run["benchmarks"]
        benchmark["extra_info"] |= {"ms_per_step": factor, "floor_ms_per_step": 0.5}
        paths.append(tmp_path / f"{i}.json")
        paths[-1].write_text(json.dumps(run))
    (row,) = suite.merged(paths)
    assert (row["ms_per_step"], row["floor_ratio"], row["sweeps"]) == (2.0, 4.0, 3)
    assert len(row["round_trips_ns"]) >= 6
    text = suite.markdown(
        {"rows": [row], "device": "cpu", "environment": json.loads(saved.read_text())["machine_info"]["environment"]}
    )
    assert "| sampling | mean-field | 32 | pytorch | 2 (" in text
    assert "| 4.00 | 4.00 |" in text, "its own floor is the only one"
    assert cores.said(row["round_trips_ns"]) in text


def test_a_selection_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", "--backend", "pytorch", "-k", "nothing", "--storage", str(tmp_path)]) == 2
    assert "No benchmark was timed" in capsys.readouterr().err


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
    assert main(["throughput", "--precision", "full", "tf32"]) == 2
    assert "tf32" in capsys.readouterr().err


def test_a_report_is_of_what_is_timed_now(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", "--saved", str(saved), "--report"]) == 2
    assert "here and now" in capsys.readouterr().err


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
        for family in cases.FAMILIES
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
    columns, lines = suite.table(rows)
    ratios = [[line[columns.index(name)] for name in ("step / floor", "step / fastest floor")] for line in lines]
    assert [line[columns.index("precision")] for line in lines] == ["float32", "float32", "tf32"]
    assert ratios == [["3.00", "3.00"], ["1.50", "2.00"], ["4.00", "4.00"]]
    columns, _ = suite.table(rows[:2])
    assert "precision" not in columns


def test_another_precision_is_not_in_the_roofline(tmp_path: Path) -> None:
    whole = report(tmp_path)
    before = roofline.points(whole), roofline.limits(whole)
    whole["rows"] += [row | {"precision": "tf32", "rate": 1e18} for row in whole["rows"]]
    assert (roofline.points(whole), roofline.limits(whole)) == before
    assert roofline.picture("cuda").name == "roofline-cuda.png"


def test_a_steps_flop_and_bytes() -> None:
    """Of a mean-field model that is small enough to count by hand: 2 pixels, 1 latent, 1 hidden unit, batch 3."""
    config = STANDARD.replace(image_shape=(1, 2), latent_size=1, hidden_size=1, batch_size=3)
    # Inputs and outputs of its six layers: three products each, but no dX for the pixels.
    sizes = [(2, 1), (1, 1), (1, 2), (1, 1), (1, 1), (1, 2)]
    macs = [3 * i * o for i, o in sizes]
    assert roofline.flop(config) == 2 * (3 * sum(macs) - macs[0])
    touched = [3 * i + i * o + 3 * o for i, o in sizes]
    parameters = sum(i * o + o for i, o in sizes)
    assert roofline.moved(config) == 4 * (3 * sum(touched) - touched[0] + 7 * parameters)


def test_the_picture_is_drawn_from_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["roofline", "--results", str(tmp_path), "--picture", str(tmp_path / "figures/roofline.png")]
    assert main(arguments) == 2
    assert "make bench-throughput" in capsys.readouterr().err
    whole = report(tmp_path)
    assert main(arguments) == 0
    assert (tmp_path / "figures/roofline.png").read_bytes().startswith(b"\x89PNG")
    intensities = [point["intensity"] for point in roofline.points(whole) if point["family"] == "flow"]
    assert intensities == sorted(intensities), "a larger batch shares the weights' traffic"
    assert "| an empty launch | jax | 10 µs |" in roofline.markdown(whole)
    whole["rows"] = [row for row in whole["rows"] if row["kind"] != "copy"]
    with pytest.raises(UserError, match="lacks"):
        roofline.draw(whole, tmp_path / "x.png")
