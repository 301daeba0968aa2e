"""The comparison of two revisions: its verdicts, its processes, and which code each side runs."""

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
from benchmarks.harness import calls, cases, turns
from benchmarks.harness.copies import copied
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.turns import Side, What
from common.errors import UserError
from common.noise import NOISE_BLOCK
from tests.gates.slowed import slow_down

WHAT = What("train", "mean-field", 128, "jax")
SHORT = What("placement", "mean-field", 32, "pytorch")


# Verdicts


class Stand:
    """A side whose turns take known times: `true` seconds, by noise of this process and of each turn, on a drifting machine."""

    now = 0.0
    draws = np.random.default_rng(0)

    def __init__(self, root: Path, what: What, *, floor_too: bool, waiting: Mapping[str, str]):
        assert waiting == turns.NO_SPINNING, "a verdict's sides wait asleep"
        self.true = (1.15 if root.name == "slow" else 1.0) * float(np.exp(Stand.draws.normal(0, 0.01)))

    def answer(self) -> str:
        return "ready"

    def turn(self) -> dict[str, float]:
        Stand.now += 1
        drift = 1 + 0.4 * np.sin(Stand.now / 30)
        return {"train": self.true * drift * float(np.exp(Stand.draws.normal(0, 0.03)))}

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_the_verdict_is_right_on_a_machine_that_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "Side", Stand)
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


def test_a_suspicion_is_put_to_fresh_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    base, head = Path("base"), Path("head")
    for looks, slower in (([1.2] * 5 + [1.2] * 5, True), ([1.2] * 5 + [1.2] * 4 + [0.9], False), ([1.0] * 5, False)):
        ratios = iter(looks)
        monkeypatch.setattr(compare, "pair", lambda *_, ratios=ratios, **__: next(ratios))
        verdict = compare.judge(base, head, WHAT)
        assert verdict.slower == slower
        assert verdict.ratios == looks


def test_fewer_than_five_pairs_and_no_turn_are_the_users_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, value in (("--turns", "0"), ("--pairs", "4")):
        assert main(["compare", flag, value]) == 2
        assert f"{flag} is {value}; it must be at least" in capsys.readouterr().err


# A side


def test_a_side_answers_a_turn_with_seconds() -> None:
    with pytest.raises(UserError, match="ended with code 2"):
        Side(ROOT, What("train", "mean-field", 128, "nothing")).answer()
    with Side(ROOT, SHORT, floor_too=True) as side:
        assert side.answer() == "ready\n"
        seconds = side.turn()
        assert seconds.keys() == {"placement", "products"}
        assert all(each > 0 for each in seconds.values())
    assert side.process.returncode == 0


def test_a_side_that_ends_between_its_turns_is_named() -> None:
    with Side(ROOT, SHORT) as side:
        side.process.kill()
        side.process.wait()
        with pytest.raises(UserError, match="ended with code -9"):
            side.turn()


def test_a_side_is_not_waited_for_where_the_command_is_stopped() -> None:
    side = Side(ROOT, SHORT)
    with pytest.raises(KeyboardInterrupt), side:
        raise KeyboardInterrupt
    assert side.process.returncode == -signal.SIGKILL


# A revision before there was a precision, before `create` took the config, with no benchmarks/: only what calls.py calls.
EARLIER = {
    "errors": "class UserError(Exception): ...",
    "config": """
import dataclasses
@dataclasses.dataclass(frozen=True)
class Part:
    pixels: int = 4
    latent_size: int = 2
    hidden_size: int = 1
@dataclasses.dataclass(frozen=True)
class Config:
    model: Part = Part()
    optimizer: Part = Part()
    training: Part = Part()
    evaluation: Part = Part()
    dtype: str = "float32"
    device: str = "cpu"
    def replace(self, **changes):
        return dataclasses.replace(self, **{"dtype": changes["dtype"], "device": changes["device"]})
""",
    "data": "def minibatches(**_): return None",
    "parameters": """
State = dict
def initial_parameters(model, *, training, pixel_log_odds): return {}
def fresh_state(parameters, *, optimizer, training, dtype): return {}
""",
    "protocol": """
class Session:
    def place(self, images): return images
    def train(self, *_, **__): print("a print of the earlier revision")
    def synchronize(self): ...
class Backend:
    def create(self, model, state, *, optimizer, training, device, dtype): return Session()
def load(name): return Backend()
""",
}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    (tmp_path / "common").mkdir()
    for name, text in EARLIER.items():
        (tmp_path / "common" / f"{name}.py").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_side_runs_its_own_revisions_code(earlier: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The earlier revision would raise if today's contract or settings were asked of it."""
    with Side(earlier, WHAT) as side:
        assert side.answer() == "ready\n"
        assert side.turn()["train"] > 0
    assert "a print of the earlier revision" in capfd.readouterr().err, "a print is no answer"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (What("gradient", "mean-field", 128, "jax"), "too old to time the gradient alone"),
        (What("train", "mean-field", 128, "jax", precision="bfloat16"), "too old to compute in bfloat16"),
    ],
)
def test_a_revision_too_old_for_a_benchmark_says_so(
    earlier: Path, what: What, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="ended with code 2"), Side(earlier, what) as side:
        side.answer()
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line


def test_settings_reach_a_side_and_those_that_it_lacks_do_not() -> None:
    config = STANDARD.replace(latent_size=7, learning_rate=0.5, dtype="float64")
    assert calls.configured(config.as_dict() | {"unknown": 1}) == config
    assert calls.SAMPLES == NOISE_BLOCK


# The command


def test_a_revision_too_old_to_be_measured_is_an_error(earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str, refusal: str = "") -> str:
        if arguments[:2] == ("worktree", "add"):
            Path(arguments[3]).mkdir()
        return "commit"

    monkeypatch.setattr(compare, "git", git)
    with pytest.raises(UserError, match=r"The revision v0 is too old to be measured: it has no common/config\.py"):
        compare.checkout("v0").__enter__()


def test_an_unknown_revision_and_a_selection_of_nothing_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--base", "no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().err
    assert main(["compare", "-k", "nothing"]) == 2
    assert "No benchmark has all the words" in capsys.readouterr().err


def test_a_checkout_is_the_other_revision_and_is_removed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    with compare.checkout("HEAD") as root:
        assert (root / "backends/jax/session.py").exists()
    assert not root.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(root) not in listed.stdout


def saved_run(path: Path, *, kind: str = "sampling", **commit: Any) -> Path:
    info = {"kind": kind, "family": "mean-field", "batch": 32, "backend": "pytorch", "device": "cpu", "precision": "float32"}
    benchmark = {"extra_info": info | {"ms_per_step": 0.5}, "stats": {"rounds": 5}}
    path.write_text(json.dumps({"commit_info": {"id": "a" * 40, "dirty": False} | commit, "benchmarks": [benchmark]}))
    return path


SAMPLING = What("sampling", "mean-field", 32, "pytorch")


def test_a_saved_run_says_which_code_and_what(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert compare.saved(saved_run(path)) == ("a" * 40, {SAMPLING: 0.5})
    for commit in ({"dirty": True}, {"id": None}):
        with pytest.raises(UserError, match="uncommitted"):
            compare.saved(saved_run(path, **commit))
    with pytest.raises(UserError, match="timed no benchmark that can be compared"):
        compare.saved(saved_run(path, kind="matrix"))
    path.write_text("{}")
    with pytest.raises(UserError, match="no saved run"):
        compare.saved(path)


def test_of_a_saved_run_all_is_compared_unless_something_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged: list[What] = []

    def judge(base: Path, head: Path, what: What, **_: Any) -> compare.Verdict:
        judged.append(what)
        return compare.Verdict([1.0], slower=False)

    monkeypatch.setattr(compare, "checkout", lambda revision: nullcontext(tmp_path))
    monkeypatch.setattr(compare, "judge", judge)
    path = saved_run(tmp_path / "run.json")
    assert main(["compare", "--saved", str(path)]) == 0
    assert judged == [SAMPLING]
    assert "the saved run had 0.5 ms a step" in capsys.readouterr().out
    assert main(["compare", "--saved", str(path), "-k", "train"]) == 2


def test_a_benchmark_that_fails_loses_no_others_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def judge(base: Path, head: Path, what: What, **_: Any) -> compare.Verdict:
        if what.backend == "jax":
            raise UserError("Its process ended.")
        return compare.Verdict([1.2], slower=True)

    monkeypatch.setattr(compare, "checkout", lambda revision: nullcontext(tmp_path))
    monkeypatch.setattr(compare, "judge", judge)
    assert main(["compare", "-k", "train mean-field 128"]) == 2
    printed = capsys.readouterr()
    assert "train mean-field 128 tensorflow" in printed.out
    assert "Not compared: train mean-field 128 jax" in printed.err


# At work


@pytest.mark.slow
def test_unchanged_code_passes_and_a_step_15_percent_slower_is_caught(tmp_path: Path) -> None:
    what = What("train", "mean-field", 128, "pytorch")
    copied(tmp_path / "same")
    copied(tmp_path / "slow")
    slow_down(tmp_path / "slow", "pytorch", by=0.15)
    assert not compare.judge(ROOT, tmp_path / "same", what, turns=5).slower
    assert compare.judge(ROOT, tmp_path / "slow", what, turns=5).slower
