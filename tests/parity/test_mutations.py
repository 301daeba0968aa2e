"""The ladder catches faults: here the older scripts' own, and in every_mutation.py all of them (`make mutations`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.environment import ROOT
from benchmarks.parity import ladder
from benchmarks.parity.comparison import Job
from common.protocol import BACKENDS
from tests.parity.conftest import catch
from tests.parity.mutations import MUTATIONS, Mutation, mutated

# In PyTorch, which compiles nothing. That every rung can break is test_ladder.py's to show.
ONE = "log-det-without-gate-bias-pytorch"


def test_the_ladder_catches_a_wrong_log_determinant(climbed: dict[str, Job], tmp_path: Path) -> None:
    (fault,) = (m for m in MUTATIONS if m.name == ONE)
    catch(fault, climbed, tmp_path)


def mutation(**changes: str) -> Mutation:
    """One that is none, but for the changes."""
    settings = {"name": "none", "wrong": "Nothing.", "backend": "pytorch", "scenario": "mean-field adam float64"}
    settings |= {"rung": "encoder", "file": "backends/pytorch/networks.py", "before": "F.relu", "after": "F.relu"}
    return Mutation(**settings | changes)


def test_a_fault_that_is_none_slips_through(climbed: dict[str, Job], tmp_path: Path) -> None:
    same = "hidden = F.relu(self.second(hidden))"
    with pytest.raises(AssertionError, match="none slips through"):
        catch(mutation(rung="gradients", before=same, after=same), climbed, tmp_path)


def test_a_fault_that_breaks_another_rung_is_not_caught(climbed: dict[str, Job], tmp_path: Path) -> None:
    fault = mutation(rung="decoder", before="hidden = F.relu(self.second(hidden))", after="hidden = self.second(hidden)")
    with pytest.raises(AssertionError, match="encoder"):
        catch(fault, climbed, tmp_path)


@pytest.mark.parametrize(("before", "times"), [("F.relu", 2), ("nowhere", 0)])
def test_a_text_that_is_not_there_once_is_refused(tmp_path: Path, before: str, times: int) -> None:
    with pytest.raises(ValueError, match=f"networks.py {times} times"):
        mutated(mutation(before=before), tmp_path)


def test_the_suite_covers_every_backend_and_rung() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)
    assert {m.backend for m in MUTATIONS} == set(BACKENDS)
    scenarios = {scenario.name: scenario for scenario in ladder.small()}
    assert {m.rung for m in MUTATIONS} == {rung for scenario in scenarios.values() for rung in scenario.rungs}
    for m in MUTATIONS:
        assert m.rung in scenarios[m.scenario].rungs
        assert m.before != m.after
        assert (ROOT / m.file).read_text(encoding="utf-8").count(m.before) == 1, f"{m.name}: the code has changed"
