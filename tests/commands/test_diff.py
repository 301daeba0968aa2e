"""`diff` says what differs between two runs beyond noise, by image where it can, and what it can't compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import per_image, records
from common import estimators
from tests.outputs.test_sweeps import run

IMAGE = np.arange(500)
HARD = np.random.default_rng(0).normal(-90, 15, 500)


def saved(folder: Path, shift: float = 0.0, *, speed: float = 1000.0, by_image: bool = True, **settings: Any) -> Path:
    """A run's record, and each image's results: `shift` nats better on average, up to 0.5 nats of noise an image."""
    record = run(**settings)
    log_px = HARD + shift + np.random.default_rng(record["seed"] + 10 * len(record["backend"])).normal(0, 0.5, 500)
    for name, values in (("elbo", log_px - 5), ("log_px", log_px)):
        record["test"] |= {name: values.mean(), f"{name}_se": estimators.standard_error(values)}
    record["test"] |= {"importance_samples": 100, "images": 500}
    record["timing"] |= {"examples_per_s": speed, "examples_per_s_iqr": 100.0, "chunks": 20}
    record["environment"] |= {"commit": "a" * 40, "versions": {"jax": "0.10.2"}}
    if by_image:
        arrays = {"image": IMAGE, "elbo": log_px - 5, "log_px": log_px}
        record["test"]["per_image"] = per_image.write(arrays, record, folder=folder)
    return records.write(record, folder)


def diff(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> str:
    assert main(["diff", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def row(printed: str, name: str) -> str:
    (line,) = (line for line in printed.splitlines() if line.startswith(f"{name} "))
    return line


def test_two_runs_by_image_and_by_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", 0.2, speed=1500, seed=1)
    printed = diff(capsys, a, b)
    assert printed.startswith(f"A: {a}\nB: {b}\n")
    assert row(printed, "log p(x)").endswith("± 0.032  B is higher")
    assert row(printed, "examples/s").endswith("× 1.50  B is faster")
    assert "From A to B: seed 0 → 1." in printed
    assert "the same 500 test images" in printed
    assert "Another day, machine, version or load" in printed
    back = diff(capsys, b, a)
    assert row(back, "ELBO").endswith("B is lower")
    assert row(back, "examples/s").endswith("× 0.67  B is slower")


def test_with_json_what_is_not_compared_is_said_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, seeds in (("a", (0, 1, 2)), ("b", (0, 1))):
        for seed in seeds:
            saved(tmp_path / folder, seed=seed)
    record = run(seed=1) | {"status": "failed", "reason": "It fell over."}
    record["test"] |= dict.fromkeys(("elbo", "log_px"))
    records.write(record, tmp_path / "b")
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) == 1
    assert "has no result (failed)" in printed.err
    assert "Only in A: " in printed.err


def test_what_is_noise_is_called_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", 0.0, speed=1099, seed=1)
    printed = diff(capsys, a, b)
    assert row(printed, "ELBO").endswith("no difference beyond noise")
    assert row(printed, "examples/s").endswith("no difference beyond the spread")
    assert row(diff(capsys, a, a), "ELBO").endswith("+0.000 ± 0.000  identical")


@pytest.mark.parametrize("change", ["older", "removed", "altered"])
def test_without_results_by_image_it_says_so_and_compares_the_means(
    tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", 0.2, seed=1, by_image=change != "older")
    if change == "removed":
        b.with_suffix(".npz").unlink()
    elif change == "altered":
        b.with_suffix(".npz").write_bytes(b"")
    printed = diff(capsys, a, b)
    assert row(printed, "ELBO").endswith("no difference beyond noise")
    assert "not in pairs of images" in printed
    assert (f"{b.with_suffix('.npz')}" in printed) == (change != "older")


def test_folders_are_compared_in_pairs_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for family in ("flow", "mean-field"):
        saved(tmp_path / "a", variational=family)
        saved(tmp_path / "b", 1.0, variational=family, learning_rate=0.1, backend="pytorch")
    saved(tmp_path / "a", variational="flow", seed=5)
    printed = diff(capsys, tmp_path / "a", tmp_path / "b")
    assert printed.startswith(f"A: {tmp_path / 'a'}\nB: {tmp_path / 'b'}\n")
    assert [line.split()[0] for line in printed.splitlines() if "log p(x)  " in line] == ["flow", "mean-field"]
    assert "From A to B: backend jax → pytorch; learning-rate 0.001 → 0.1." in printed
    assert "Only in A: quick_digits_jax_flow_cpu_float32_seed5." in printed
    assert "Only in B" not in printed


def test_pairs_that_differ_in_their_seed_have_a_mean_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, shift in enumerate((0.1, 0.2, 0.6)):
        for family in ("flow", "mean-field"):
            saved(tmp_path / "a", seed=seed, variational=family)
            saved(tmp_path / "b", shift, seed=seed, variational=family, learning_rate=0.1)
    printed = diff(capsys, tmp_path / "a", tmp_path / "b")
    error = np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3)
    expected = f"ELBO +0.300 ± {error:.3f}, log p(x) +0.300 ± {error:.3f}, ± the standard error over seeds."
    assert [f"{family}, 3 seeds: {expected}" in printed.splitlines() for family in ("flow", "mean-field")] == [True, True]


def test_a_pair_that_cannot_be_compared_is_said_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in ("a", "b"):
        saved(tmp_path / side)
    records.write(run(seed=1), tmp_path / "a")
    failed = run(seed=1) | {"status": "failed", "reason": "It fell over."}
    failed["test"] = dict.fromkeys(failed["test"])
    path = records.write(failed, tmp_path / "b")
    printed = diff(capsys, tmp_path / "a", tmp_path / "b")
    assert f"{path.name} has no result (failed)" in printed
    assert main(["diff", str(tmp_path / "a"), str(path)]) == 2
    assert "has no result" in capsys.readouterr().err


def test_another_k_or_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, other = saved(tmp_path / "a"), saved(tmp_path / "b"), saved(tmp_path / "c", data="mnist")
    for path, key, change in ((b, "test", {"importance_samples": 7}), (other, "dataset", {"sha256": "cd"})):
        record = json.loads(path.read_text())
        record[key] |= change
        path.write_text(json.dumps(record))
    printed = diff(capsys, a, b)
    assert "log p(x) isn't compared: K is 100 in A and 7 in B." in printed
    assert row(printed, "ELBO").endswith("identical")
    assert main(["diff", str(a), str(other)]) == 2
    assert "two data sets, digits and mnist" in capsys.readouterr().err


def test_json_has_the_numbers_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b", 0.2, speed=1500, seed=1)
    (found,) = json.loads(diff(capsys, a, b, "--json"))
    assert (found["a"], found["b"], found["differences"]) == (str(a), str(b), {"seed": [0, 1]})
    quality = found["quality"]["log_px"]
    assert (quality["paired"], quality["images"], quality["verdict"]) == (True, 500, "B is higher")
    assert quality["mean"] == pytest.approx(quality["b"] - quality["a"], abs=1e-5)
    assert found["speed"] == {"a": 1000, "b": 1500, "ratio": 1.5, "beyond_spread": True, "verdict": "B is faster"}
