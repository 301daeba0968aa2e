"""The check after an upgrade: its bounds, its verdicts, its exit codes. Only the slow tests train or time anything."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.gates import quality, rows, rungs, speed
from benchmarks.gates import regress as command
from benchmarks.gates.regress import BASELINES, NUMBERS
from benchmarks.harness import reports, turns
from benchmarks.harness.copies import Replacement, copied, replaced
from benchmarks.harness.environment import ROOT
from benchmarks.harness.turns import What
from benchmarks.parity import comparison as parity
from benchmarks.parity.comparison import BrokenRungError
from common.protocol import BACKENDS
from tests.gates.slowed import slow_down

FAMILIES = ("mean-field", "flow")

# A part of `regress` → a fault that it must catch.
FAULTS = {
    "parity": Replacement(
        file="backends/pytorch/flow.py",
        before="        s = s + self.gate_bias\n        gate = torch.sigmoid(s)\n",
        after="        gate = torch.sigmoid(s + self.gate_bias)\n",
    ),
    "quality": Replacement(
        file="common/schedules.py",
        before="optimizer.learning_rate * 0.5 * (1 + np.cos",
        after="0.5 * optimizer.learning_rate * 0.5 * (1 + np.cos",
    ),
}


def scores(draws: np.random.Generator, *, seeds: np.ndarray, scale: float = 0.03) -> quality.Scores:
    """Each seed's own level, and about it what rounding and noise do."""
    return {family: {backend: list(seeds + draws.normal(0, scale, len(seeds))) for backend in BACKENDS} for family in FAMILIES}


def rounds(
    draws: np.random.Generator, *, step: dict[str, float] | None = None, floor: dict[str, float] | None = None
) -> list[speed.Round]:
    """Rounds on a machine that drifts by 40 %, with noise of processes and turns; `step` and `floor` are factors."""
    found = []
    for _ in range(speed.ROUNDS):
        one: speed.Round = {}
        for family in FAMILIES:
            drift = 1 + 0.4 * draws.random(speed.TURNS)
            one[family] = {
                backend: {
                    kind: list(base * factor.get(backend, 1) * np.exp(draws.normal(0, 0.01)) * drift * noise)
                    for kind, base, factor in (("step", 0.2 + 0.05 * i, step or {}), ("floor", 0.15, floor or {}))
                    for noise in (np.exp(draws.normal(0, 0.02, speed.TURNS)),)
                }
                for i, backend in enumerate(BACKENDS)
            }
        found.append(one)
    return found


def red(found: list[rows.Row]) -> set[tuple[str, str]]:
    return {(row.backend, row.family) for row in found if row.reason}


# The statistics


def test_the_quantile_is_students_and_grows_with_the_number_of_comparisons() -> None:
    assert rows.quantile(tests=1, degrees=10_000_000, sides=2) == pytest.approx(2.5758, abs=1e-4), "the normal's, 1 %"
    assert rows.quantile(tests=1, degrees=4, sides=1) == pytest.approx(3.7469, abs=1e-4)
    assert rows.quantile(tests=12, degrees=8, sides=2) > rows.quantile(tests=2, degrees=8, sides=2)


def test_the_pooled_spread_leaves_the_groups_means_out() -> None:
    assert rows.pooled([[0.0, 2.0], [100.0, 102.0, 104.0]]) == pytest.approx(((10 / 3) ** 0.5, 3))
    with pytest.raises(ValueError, match="two values"):
        rows.pooled([[1.0], [2.0]])


def test_quality_is_wrong_about_unchanged_code_no_more_often_than_it_says() -> None:
    """The scores of one seed differ by rounding and noise; what a seed is worth, ten times as much here, doesn't count."""
    draws = np.random.default_rng(0)
    trials, alarms, widths = 2000, 0, []
    for _ in range(trials):
        seeds = -23 + draws.normal(0, 0.3, len(quality.SEEDS))
        base, now = scores(draws, seeds=seeds), scores(draws, seeds=seeds)
        alarms += bool(red(quality.judge(base, now)))
        widths.append(quality.bounds(base, "flow")[0])
    assert alarms / trials < rows.FALSE_ALARM + 3 * (rows.FALSE_ALARM / trials) ** 0.5
    assert np.median(widths) < 0.2


def test_speed_is_wrong_about_unchanged_code_no_more_often_than_it_says() -> None:
    draws = np.random.default_rng(0)
    trials = 300
    alarms = sum(bool(red(speed.judge(rounds(draws), rounds(draws)))) for _ in range(trials))
    assert alarms / trials < rows.FALSE_ALARM + 3 * (rows.FALSE_ALARM / trials) ** 0.5


# Verdicts on quality


def test_equal_scores_are_identical_and_a_fall_or_a_rise_is_red() -> None:
    draws = np.random.default_rng(1)
    base = scores(draws, seeds=np.array([-23.0, -23.1, -22.9]))
    assert {row.verdict for row in quality.judge(base, base)} == {"identical"}
    for move, verdict in ((-0.3, "lower"), (0.3, "higher"), (float("nan"), "not finite")):
        now = copy.deepcopy(base)
        now["flow"]["jax"] = [score + move for score in base["flow"]["jax"]]
        found = quality.judge(base, now)
        assert red(found) == {("jax", "flow")}
        assert {row.verdict for row in found if row.reason} == {verdict}


def test_one_seed_that_leaves_is_red_though_the_mean_stays() -> None:
    draws = np.random.default_rng(1)
    base = scores(draws, seeds=np.full(3, -23.0))
    now = copy.deepcopy(base)
    of_mean, of_one = quality.bounds(base, "flow")
    assert of_one == pytest.approx(3**0.5 * of_mean)
    for i, sign in ((0, -1.2), (1, 1.1)):
        now["flow"]["jax"][i] += sign * of_one
    assert [row.what for row in quality.judge(base, now) if row.reason] == ["log p(x), farthest seed (0)"]


# Verdicts on speed


@pytest.mark.parametrize(
    ("changes", "slower"),
    [
        ({"step": {"pytorch": 1.15}}, {"pytorch"}),
        ({"step": {"pytorch": 1.15}, "floor": {"pytorch": 1.15}}, {"pytorch"}),
        ({"step": dict.fromkeys(BACKENDS, 1.15)}, set(BACKENDS)),
        ({"step": {"pytorch": 0.8}}, set()),
        ({"floor": {"pytorch": 0.8}}, set()),
        ({"step": {"jax": 0.8}, "floor": {"jax": 0.8}}, set()),
    ],
    ids=["step", "step and floor", "every step", "a faster step", "a faster floor", "all of one faster"],
)
def test_what_became_slower_is_found_and_what_became_faster_is_not(changes: dict[str, Any], slower: set[str]) -> None:
    draws = np.random.default_rng(2)
    found = speed.judge(rounds(draws), rounds(draws, **changes))
    assert red(found) == {(backend, family) for backend in slower for family in FAMILIES}
    for row in found:
        assert (row.verdict == "slower") == bool(row.reason)


def test_a_suspicion_is_looked_into_again() -> None:
    draws = np.random.default_rng(3)
    base, slow = rounds(draws), rounds(draws, step={"pytorch": 1.2})
    looks: list[str] = []

    def again(found: list[speed.Round]) -> Any:
        return lambda: looks.append("again") or found

    assert not red(speed.twice(base, rounds(draws), again=again(slow)))
    assert looks == []
    assert not red(speed.twice(base, slow, again=again(rounds(draws)))), "one slow afternoon"
    assert red(speed.twice(base, slow, again=again(rounds(draws, step={"pytorch": 1.2})))) == {
        ("pytorch", family) for family in FAMILIES
    }
    assert looks == ["again", "again"]


def test_a_loud_baseline_widens_its_bound_and_a_quiet_one_keeps_the_least() -> None:
    draws = np.random.default_rng(4)
    base = rounds(draws)
    still = [copy.deepcopy(base[0]) for _ in base]
    assert speed.bound(still, "flow", "floor", now=5) == speed.LEAST
    for i, one in enumerate(still):
        one["flow"]["pytorch"]["step"] = [s * (1 + 0.1 * i) for s in one["flow"]["pytorch"]["step"]]
    assert speed.bound(still, "flow", "floor", now=5) > speed.bound(base, "flow", "floor", now=5)
    assert speed.bound(still, "flow", "step", now=5) > speed.LEAST
    assert speed.bound(still, "mean-field", "floor", now=5) == speed.LEAST


def test_backends_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Stand:
        def __init__(self, root: Path, what: What, *, floor_too: bool, waiting: Mapping[str, str]):
            assert floor_too
            assert waiting == turns.NO_SPINNING
            self.what = what

        def answer(self) -> str:
            return "ready"

        def turn(self) -> dict[str, float]:
            asked.append(self.what.backend)
            return {"train": 0.2, "products": 0.1}

        def __enter__(self) -> Stand:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(turns, "Side", Stand)
    found = speed.turns("flow", list(BACKENDS))
    a, b, c = BACKENDS
    assert asked[:9] == [a, b, c, b, c, a, c, a, b]
    assert found[a] == {"step": [0.2] * speed.TURNS, "floor": [0.1] * speed.TURNS}


# The command


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a stand-in for each measurement says; a test may change it."""
    draws = np.random.default_rng(5)
    says: dict[str, Any] = {
        "parity": ([_rung(1e-13, ("pytorch", "jax"))], {}),
        "quality": scores(draws, seeds=np.full(len(quality.SEEDS), -23.0)),
        "speed": rounds(draws),
        "described": ({backend: {backend: "1.0"} for backend in BACKENDS}, {}),
    }

    def climbed(names: list[str]) -> Any:
        holds, broken = says["parity"]
        return [rung for rung in holds if set(rung["pair"]) <= set(names)], broken

    monkeypatch.setattr(rungs, "measure", climbed)
    monkeypatch.setattr(
        command, "described", lambda names: tuple({k: v for k, v in part.items() if k in names} for part in says["described"])
    )
    monkeypatch.setattr(quality, "measure", lambda names: says["quality"])
    monkeypatch.setattr(speed, "measure", lambda names: (says["speed"], [300.0, 310.0]))
    return says


def _rung(deviation: float, pair: tuple[str, str]) -> dict[str, Any]:
    return {"dtype": "float64", "rung": "gradients", "pair": list(pair), "deviation": deviation, "allowed": 1e-10}


def regress(folder: Path, *arguments: str) -> int:
    return main(["regress", "--baselines", str(folder / "baselines"), "--results", str(folder / "results"), *arguments])


def test_what_is_unchanged_passes_and_says_so(tmp_path: Path, measured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert regress(tmp_path, "--update") == 0
    assert sorted(path.name for path in (tmp_path / "baselines").iterdir()) == [f"{NUMBERS}.json", f"{speed.machine()}.json"]
    capsys.readouterr()
    assert regress(tmp_path) == 0
    shown = capsys.readouterr()
    assert "Changed since the baseline: no package has another version." in shown.out
    assert shown.err == ""
    report = reports.read(command.REPORT, tmp_path / "results")
    assert report is not None
    assert {row["verdict"] for row in report["rows"]} == {"holds", "identical", "within"}
    assert len(report["rows"]) == 1 + 2 * 6 + 2 * 6


def test_one_backends_rows_are_those_of_a_check_of_all(tmp_path: Path, measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity needs the others, and a step is held against their floors too, so that a faster floor doesn't fail it."""
    a, b, c = BACKENDS
    measured["parity"] = ([_rung(1e-13, (a, b)), _rung(1e-13, (a, c)), _rung(1e-13, (b, c))], {})
    assert regress(tmp_path, "--update") == 0
    asked: list[list[str]] = []
    monkeypatch.setattr(speed, "measure", lambda names: (asked.append(names), (measured["speed"], [300.0]))[1])
    monkeypatch.setattr(quality, "measure", lambda names: {f: {b: s[b]} for f, s in measured["quality"].items()})

    def rows(*arguments: str) -> list[dict[str, Any]]:
        assert regress(tmp_path, *arguments) == 0
        report = reports.read(command.REPORT, tmp_path / "results")
        assert report is not None
        return list(report["rows"])

    one = rows("--backend", b)
    assert asked == [list(BACKENDS)]
    monkeypatch.setattr(quality, "measure", lambda names: measured["quality"])
    assert one == [row for row in rows() if b in row["backend"].split(" – ")]
    assert [row["backend"] for row in one if "parity" in row["what"]] == [f"{a} – {b}", f"{b} – {c}"]

    measured["described"] = ({b: {b: "1.0"}}, {name: f"Backend '{name}' is unavailable." for name in (a, c)})
    assert ("parity", "not run") in {(row["what"], row["verdict"]) for row in rows("--backend", b, "--part", "parity")}


def test_a_baseline_loses_no_backend_and_no_part_is_asked_for_in_vain(
    tmp_path: Path, measured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, _ = BACKENDS
    assert regress(tmp_path, "--update") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "baselines").iterdir()}
    for arguments, words in (
        (("--backend", a, b), "would be lost"),
        (("--backend", a), "two or more"),
        (("--part", "parity"), "--part parity quality"),
    ):
        capsys.readouterr()
        assert regress(tmp_path, "--update", *arguments) == 2
        assert words in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in (tmp_path / "baselines").iterdir()}


def test_how_far_apart_the_cores_were_stands_above_the_table(
    tmp_path: Path, measured: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert regress(tmp_path, "--update") == 0
    monkeypatch.setattr(speed, "measure", lambda names: (measured["speed"], [300.0, 990.0]))
    capsys.readouterr()
    assert regress(tmp_path) == 0
    base, now = (f"a byte's round trip between two cores 300 to {most} ns" for most in (310, 990))
    assert f"Beside the speed, in the baseline {base}; now {now}." in capsys.readouterr().out
    assert regress(tmp_path, "--part", "quality") == 0
    assert "Beside the speed" not in capsys.readouterr().out


def test_a_round_is_measured_with_the_cores_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `cores.together` does again where they ended far apart is a family's turns."""
    ends = iter([300.0, 900.0, 300.0, 310.0, 320.0, 330.0])
    monkeypatch.setenv(speed.cores.WITHIN, "400")
    monkeypatch.setattr(speed.cores, "round_trip", lambda: next(ends))
    calls: list[str] = []
    monkeypatch.setattr(speed, "turns", lambda family, backends: calls.append(family))
    _, trips = speed.measure(["jax"], rounds=1)
    assert calls == ["mean-field", "mean-field", "flow"]
    assert trips == [300.0, 310.0, 320.0, 330.0]


@pytest.mark.parametrize("part", ["parity", "quality", "speed", "backend"])
def test_what_is_worse_is_exit_code_1_with_the_reason(
    tmp_path: Path, measured: Any, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    assert regress(tmp_path, "--update") == 0
    if part == "parity":
        measured["parity"] = ([], {("pytorch", "jax"): "gradients: x of pytorch is off that of jax."})
        reason = "gradients: x of pytorch is off that of jax."
    if part == "quality":
        measured["quality"] = copy.deepcopy(measured["quality"])
        measured["quality"]["flow"]["jax"] = [score - 1 for score in measured["quality"]["flow"]["jax"]]
        reason = "jax flow: log p(x), mean of 3 seeds is"
    if part == "speed":
        measured["speed"] = rounds(np.random.default_rng(6), step={"tensorflow": 1.3})
        reason = "tensorflow mean-field: step / "
    if part == "backend":
        versions = {name: {name: "1.0"} for name in BACKENDS if name != "jax"}
        measured["described"] = (versions, {"jax": "Backend 'jax' is unavailable."})
        reason = "Backend 'jax' is unavailable."
    capsys.readouterr()
    assert regress(tmp_path) == 1
    assert capsys.readouterr().err.startswith(reason)


def test_changed_versions_stand_at_the_top(tmp_path: Path, measured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert regress(tmp_path, "--update") == 0
    path = tmp_path / "baselines" / f"{NUMBERS}.json"
    base = json.loads(path.read_text())
    now = base["environment"]["versions"]["numpy"]
    base["environment"]["versions"]["numpy"] = "1.0"
    path.write_text(json.dumps(base))
    capsys.readouterr()
    assert regress(tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"Changed since the baseline: numpy 1.0 → {now}."


def test_a_backend_that_the_baseline_lacks_has_a_row_that_says_so(tmp_path: Path, measured: Any) -> None:
    a, b, c = BACKENDS
    measured["quality"] = {family: {name: scores[name] for name in (a, b)} for family, scores in measured["quality"].items()}
    assert regress(tmp_path, "--update", "--backend", a, b, "--part", "quality") == 0
    assert regress(tmp_path, "--part", "quality", "--backend", a, b, c) == 0
    report = reports.read(command.REPORT, tmp_path / "results")
    assert report is not None
    assert [(row["backend"], row["verdict"]) for row in report["rows"] if row["what"] == "backend"] == [(c, "no baseline")]


def test_processors_of_one_name_have_baselines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(vectors: str | None) -> str:
        described = {"machine": {"cpu": "AMD EPYC(TM)", "vectors": vectors}, "threads": {"cores": 2}}
        monkeypatch.setattr(speed.environment, "describe", lambda: described)
        return speed.machine()

    assert name("avx2") == "speed_amd-epyc-tm-avx2_2-cores"
    assert name("avx512_bf16") == "speed_amd-epyc-tm-avx512-bf16_2-cores"
    assert name(None) == "speed_amd-epyc-tm_2-cores"


def test_another_machine_has_no_baseline_for_its_speed_and_says_so(
    tmp_path: Path, measured: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert regress(tmp_path, "--update") == 0
    monkeypatch.setattr(speed, "machine", lambda: "speed_other_4-cores")
    monkeypatch.setattr(speed, "measure", lambda names: pytest.fail("measured, with nothing to compare"))
    assert regress(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "no baseline for this machine (speed_other_4-cores)" in shown
    assert "--update` writes one" in shown
    report = reports.read(command.REPORT, tmp_path / "results")
    assert report is not None
    assert [row["verdict"] for row in report["rows"] if row["what"] == "speed"] == ["no baseline"]


def test_no_baseline_and_a_malformed_one_are_the_users_mistakes(
    tmp_path: Path, measured: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert regress(tmp_path) == 2
    assert "There is no baseline" in capsys.readouterr().err
    assert regress(tmp_path, "--update") == 0
    for name, what in ((NUMBERS, "quality"), (NUMBERS, "parity"), (NUMBERS, "settings"), (speed.machine(), "rounds")):
        path = tmp_path / "baselines" / f"{name}.json"
        text = path.read_text()
        for wrong in (None, {"x": 1}, [1], "x"):
            path.write_text(json.dumps(json.loads(text) | {what: wrong}))
            capsys.readouterr()
            assert regress(tmp_path) == 2, (name, what, wrong)
            assert path.name in capsys.readouterr().err
        path.write_text(text[:-20])
        assert regress(tmp_path) == 2
        path.write_text(text)
    assert regress(tmp_path) == 0
    assert regress(tmp_path, "--backend", "mxnet") == 2


def test_update_is_refused_where_parity_is_broken(tmp_path: Path, measured: Any, capsys: pytest.CaptureFixture[str]) -> None:
    measured["parity"] = ([], {("pytorch", "jax"): "gradients: x of pytorch is off that of jax."})
    assert regress(tmp_path, "--update") == 1
    assert "gradients: x of pytorch" in capsys.readouterr().err
    assert not (tmp_path / "baselines").exists()
    measured["parity"] = ([], {})
    scores = measured["quality"]
    measured["quality"] = scores | {"flow": scores["flow"] | {"jax": [-23.0, float("nan"), -23.0]}}
    assert regress(tmp_path, "--update") == 2
    assert "finite" in capsys.readouterr().err
    measured["described"] = ({}, {"jax": "Backend 'jax' is unavailable."})
    assert regress(tmp_path, "--update") == 2
    assert not (tmp_path / "baselines").exists()


def test_a_broken_rung_is_charged_to_the_pairs_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(names: list[str], scenarios: Any, *, images: Any, folder: Path, threads: int) -> dict[str, parity.Job]:
        jobs = {name: parity.Job(name, scenarios, "", str(folder), threads) for name in names}
        for number, scenario in enumerate(scenarios):
            for name, job in jobs.items():
                value = np.ones(1, scenario.config.dtype) + 1e-3 * (name in names[1:2])
                np.savez(job.file(number), **{f"{rung}/x": value * (rung == "gradients") for rung in scenario.rungs})
        return jobs

    monkeypatch.setattr(parity, "measure", measure)
    holds, broken = rungs.measure(list(BACKENDS))
    a, b, c = BACKENDS
    assert set(broken) == {(a, b), (b, c)}
    verdicts = {(row.backend, row.verdict) for row in rungs.judge([], holds, broken)}
    assert verdicts == {(f"{a} – {b}", "broken"), (f"{b} – {c}", "broken"), (f"{a} – {c}", "holds")}

    def crashed(*_: Any, **__: Any) -> None:
        raise BrokenRungError("The process of jax ended with code -11: ")

    monkeypatch.setattr(parity, "measure", crashed)
    assert rungs.measure(list(BACKENDS)) == ([], {BACKENDS: "The process of jax ended with code -11: "})


# The committed baselines


def test_the_committed_baselines_are_of_this_checkouts_settings() -> None:
    for path in BASELINES.glob("*.json"):
        settings = quality.settings() if path.stem == NUMBERS else speed.settings()
        assert command.baseline(path.stem, BASELINES, settings=settings) is not None


@pytest.mark.parametrize("part", FAULTS)
def test_each_faults_text_is_there_once(part: str) -> None:
    fault = FAULTS[part]
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.before) == 1
    assert part in command.PARTS


# At work


@pytest.mark.slow
@pytest.mark.parametrize("part", FAULTS)
def test_a_copy_with_a_fault_is_caught_by_its_part(tmp_path: Path, part: str) -> None:
    """Against the committed baselines. The faulty learning rate is the same in all backends, so that parity holds."""
    root = tmp_path / "copy"
    replaced(root, FAULTS[part])
    arguments = ["--part", part, "--backend", "pytorch", "--results", str(tmp_path / "results")]
    done = subprocess.run([sys.executable, "-m", "benchmarks", "regress", *arguments], cwd=root, check=False)
    report = reports.read(command.REPORT, tmp_path / "results")
    assert report is not None
    assert (done.returncode, report["code"]) == (1, 1)
    assert any(row["reason"] for row in report["rows"])


@pytest.mark.slow
def test_a_slower_step_is_caught_by_the_speed_part_and_the_same_step_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a baseline of these minutes, of one family and two backends; slower by twice what this machine's noise allows."""
    monkeypatch.setattr(speed, "FAMILIES", ("mean-field",))
    copied(tmp_path / "slow")

    def measure(root: Path) -> list[speed.Round]:
        monkeypatch.setattr(speed, "ROOT", root)
        return speed.measure(["pytorch", "jax"])[0]

    base = measure(ROOT)
    allowed = max(speed.bound(base, "mean-field", kind, now=speed.ROUNDS) for kind in ("floor", "step"))
    slow_down(tmp_path / "slow", "pytorch", by=max(0.15, 2 * (allowed - 1)))
    again = partial(measure, ROOT)
    assert not red(speed.twice(base, measure(ROOT), again=again))
    again = partial(measure, tmp_path / "slow")
    assert red(speed.twice(base, again(), again=again)) == {("pytorch", "mean-field")}
