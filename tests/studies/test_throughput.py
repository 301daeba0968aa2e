"""The throughput suite, the comparison of two revisions and the roofline."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.gates import compare
from benchmarks.gates.compare import What
from benchmarks.harness import cases, cores, floor, reports
from benchmarks.harness.presets import STANDARD
from benchmarks.studies import roofline
from benchmarks.studies import throughput as suite
from common import protocol
from common.clock import timed
from common.errors import UserError
from common.protocol import BACKENDS
from tests.gates import prove_compare as prove

WHAT = What("train", "mean-field", 128, "jax")


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
    assert main(["compare", "-k", "nothing"]) == 2
    assert "No benchmark has all the words" in capsys.readouterr().err


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


# The comparison's verdict


class Stand:
    """A side whose turns take known times: `true` seconds, by noise of this process and of each turn, on a drifting machine."""

    now = 0.0
    draws = np.random.default_rng(0)

    def __init__(self, root: Path, what: What, *, waiting: Mapping[str, str]):
        assert waiting == compare.NO_SPINNING, "a verdict's sides wait asleep"
        self.true = (1.15 if root.name == "slow" else 1.0) * float(np.exp(Stand.draws.normal(0, 0.01)))

    def answer(self) -> str:
        return "ready"

    def turn(self) -> float:
        Stand.now += 1
        drift = 1 + 0.4 * np.sin(Stand.now / 30)
        return self.true * drift * float(np.exp(Stand.draws.normal(0, 0.03)))

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_the_verdict_is_right_on_a_machine_that_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "Side", Stand)
    base, same, slow = Path("base"), Path("same"), Path("slow")
    for _ in range(200):
        assert not compare.judge(base, same, WHAT).slower
        assert compare.judge(base, slow, WHAT).slower
        assert not compare.judge(slow, base, WHAT).slower, "what became faster passes"


def test_a_suspicion_needs_the_bound_and_every_pair() -> None:
    assert compare.suspicious([1.10, 1.12, 1.09, 1.11, 1.10], 1.07)
    assert not compare.suspicious([1.10, 1.12, 1.09, 1.11, 0.99], 1.07), "one pair was not slower"
    assert not compare.suspicious([1.05, 1.06, 1.04, 1.06, 1.05], 1.07), "within the bound"
    assert set(compare.BOUNDS) == set(cases.KINDS)
    with pytest.raises(UserError, match="at least 5"):
        compare.judge(Path("a"), Path("b"), WHAT, pairs=4)


def test_a_suspicion_is_put_to_fresh_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    base, head = Path("base"), Path("head")
    for looks, slower in (([1.2] * 5 + [1.2] * 5, True), ([1.2] * 5 + [1.2] * 4 + [0.9], False), ([1.0] * 5, False)):
        ratios = iter(looks)
        monkeypatch.setattr(compare, "pair", lambda *_, ratios=ratios, **__: next(ratios))
        verdict = compare.judge(base, head, WHAT)
        assert verdict.slower == slower
        assert verdict.ratios == tuple(looks)


def test_a_worker_answers_a_turn_with_seconds() -> None:
    with pytest.raises(UserError, match="ended with code"):
        compare.Side(compare.ROOT, What("train", "mean-field", 128, "nothing")).answer()
    with compare.Side(compare.ROOT, What("placement", "mean-field", 32, "pytorch")) as side:
        assert side.answer() == "ready\n"
        assert 0 < side.turn() < 10
    assert side.process.returncode == 0


def test_a_worker_that_ends_between_its_turns_is_named() -> None:
    with compare.Side(compare.ROOT, What("placement", "mean-field", 32, "pytorch")) as side:
        side.process.kill()
        side.process.wait()
        with pytest.raises(UserError, match="ended with code -9"):
            side.turn()


def test_a_worker_is_not_waited_for_where_the_command_is_stopped() -> None:
    side = compare.Side(compare.ROOT, What("placement", "mean-field", 32, "pytorch"))
    with pytest.raises(KeyboardInterrupt), side:
        raise KeyboardInterrupt
    assert side.process.returncode == -signal.SIGKILL


def test_an_unknown_revision_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--base", "no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().err


def test_a_saved_run_says_which_code_and_what(saved: Path, tmp_path: Path) -> None:
    run = json.loads(saved.read_text())
    for info, message in (({"id": "a" * 40, "dirty": True}, "uncommitted"), ({"id": None}, "uncommitted")):
        path = tmp_path / "run.json"
        path.write_text(json.dumps(run | {"commit_info": info}))
        with pytest.raises(UserError, match=message):
            compare.saved(path)
    path.write_text(json.dumps(run | {"commit_info": {"id": "a" * 40, "dirty": False}}))
    commit, found, times = compare.saved(path)
    assert commit == "a" * 40
    assert found == [What("sampling", "mean-field", 32, "pytorch")] == list(times)
    path.write_text("{}")
    with pytest.raises(UserError, match="no saved run"):
        compare.saved(path)


def test_of_a_saved_run_all_is_compared_unless_something_is_asked_for(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, path = json.loads(saved.read_text()) | {"commit_info": {"id": "a" * 40, "dirty": False}}, tmp_path / "run.json"
    path.write_text(json.dumps(run))
    judged: list[What] = []

    def judge(base: Path, head: Path, what: What, **_: Any) -> compare.Verdict:
        judged.append(what)
        return compare.Verdict((1.0,), 1.1, slower=False)

    monkeypatch.setattr(compare, "checkout", lambda revision: nullcontext(tmp_path))
    monkeypatch.setattr(compare, "judge", judge)
    assert main(["compare", "--saved", str(path)]) == 0
    assert judged == [What("sampling", "mean-field", 32, "pytorch")]
    assert main(["compare", "--saved", str(path), "-k", "train"]) == 2
    machine = [benchmark | {"extra_info": benchmark["extra_info"] | {"kind": "matrix"}} for benchmark in run["benchmarks"]]
    path.write_text(json.dumps(run | {"benchmarks": machine}))
    capsys.readouterr()
    assert main(["compare", "--saved", str(path)]) == 2
    assert "timed no benchmark that can be compared" in capsys.readouterr().err


def test_a_benchmark_that_fails_loses_no_others_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def judge(base: Path, head: Path, what: What, **_: Any) -> compare.Verdict:
        if what.backend == "jax":
            raise UserError("Its process ended.")
        return compare.Verdict((1.2,), 1.1, slower=True)

    monkeypatch.setattr(compare, "checkout", lambda revision: nullcontext(tmp_path))
    monkeypatch.setattr(compare, "judge", judge)
    assert main(["compare", "-k", "train mean-field 128"]) == 2
    printed = capsys.readouterr()
    assert "train mean-field 128 tensorflow" in printed.out
    assert "Not compared: train mean-field 128 jax" in printed.err


def test_a_precision_that_the_device_lacks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", "--precision", "full", "tf32"]) == 2
    assert "tf32" in capsys.readouterr().err


def test_no_pair_and_no_turn_are_the_users_mistakes() -> None:
    for flag, settings in (("--turns", {"turns": 0}), ("--pairs", {"pairs": 4})):
        with pytest.raises(UserError, match=flag):
            compare.judge(compare.ROOT, compare.ROOT, WHAT, **settings)


def test_trials_of_other_code_stand_in_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    found = {"ratios": [1.0], "median": 1.0, "verdict": "as fast", "right": True, "seconds": 1.0}
    monkeypatch.setattr(prove, "trial", lambda *_, **__: dict(found))
    arguments = ["prove-compare", "--slowed", "0", "--unchanged", "1", "--results", str(tmp_path)]
    assert main(arguments) == main(arguments) == 0
    path = tmp_path / "compare-gate.json"
    report = json.loads(path.read_text())
    assert len(report["trials"]) == 2
    path.write_text(json.dumps(report | {"environment": report["environment"] | {"commit": "another"}}))
    capsys.readouterr()
    assert main(arguments) == 2
    assert "of another commit" in capsys.readouterr().err
    assert len(json.loads(path.read_text())["trials"]) == 2


def test_a_report_is_of_what_is_timed_now(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", "--saved", str(saved), "--report"]) == 2
    assert "here and now" in capsys.readouterr().err


def test_a_checkout_has_the_others_code_and_this_ones_clock() -> None:
    if not (compare.ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    with compare.checkout("HEAD") as root:
        assert (root / "backends/jax/session.py").exists()
        assert (root / "benchmarks/throughput/compare.py").read_bytes() == Path(compare.__file__).read_bytes()
        prove.slow_down(root, "jax")
        compile((root / "backends/jax/session.py").read_text(), "session.py", "exec")
    assert not root.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=compare.ROOT, capture_output=True, text=True, check=True)
    assert str(root) not in listed.stdout


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
    reports.write("throughput", {"device": "cpu", "rows": rows}, tmp_path)
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
