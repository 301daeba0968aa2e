"""The ladder catches faults: here one of the older scripts', and in every_mutation.py all of them (`make mutations`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.copies import replaced
from benchmarks.harness.environment import ROOT
from benchmarks.outputs.older import ANCESTORS
from benchmarks.parity import ladder
from benchmarks.parity.comparison import Job
from benchmarks.studies.ablation import FAULTS
from common.protocol import BACKENDS
from tests.parity.conftest import catch
from tests.parity.mutations import MUTATIONS, Mutation, read

# In PyTorch, which compiles nothing. That every rung can break is test_ladder.py's to show.
ONE = "log-det-without-gate-bias-pytorch"


def test_the_ladder_catches_a_wrong_log_determinant(climbed: dict[str, Job], tmp_path: Path) -> None:
    (fault,) = (m for m in MUTATIONS if m.name == ONE)
    catch(fault, climbed, tmp_path)


def mutation(**changes: str) -> Mutation:
    """A mutation that changes nothing, but for these settings."""
    settings = {"name": "none", "wrong": "Nothing.", "backend": "pytorch", "scenario": "mean-field adam float64"}
    settings |= {"rung": "encoder", "file": "backends/pytorch/networks.py", "before": "F.relu", "after": "F.relu"}
    return Mutation(**settings | changes)


def test_a_fault_that_is_none_slips_through(climbed: dict[str, Job], tmp_path: Path) -> None:
    same = "F.relu(self.second(hidden))"
    with pytest.raises(AssertionError, match="none slips through"):
        catch(mutation(rung="gradients", before=same, after=same), climbed, tmp_path)


def test_a_fault_that_breaks_another_rung_is_not_caught(climbed: dict[str, Job], tmp_path: Path) -> None:
    fault = mutation(rung="decoder", before="F.relu(self.second(hidden))", after="self.second(hidden)")
    with pytest.raises(AssertionError, match="encoder"):
        catch(fault, climbed, tmp_path)


@pytest.mark.parametrize(("before", "times"), [("F.relu", 2), ("nowhere", 0)])
def test_a_text_that_is_not_there_once_is_refused(tmp_path: Path, before: str, times: int) -> None:
    with pytest.raises(ValueError, match=rf"networks\.py has the text {times} times"):
        replaced(tmp_path, mutation(before=before))


def test_the_suite_covers_every_backend_and_rung() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)
    assert {m.backend for m in MUTATIONS} == set(BACKENDS)
    scenarios = {scenario.name: scenario for scenario in ladder.small()}
    assert {m.rung for m in MUTATIONS} == {rung for scenario in scenarios.values() for rung in scenario.rungs}
    for m in MUTATIONS:
        assert m.rung in scenarios[m.scenario].rungs
        assert m.before != m.after
        assert (ROOT / m.file).read_text(encoding="utf-8").count(m.before) == 1, f"{m.name}: the code has changed"


def test_the_ablation_trains_with_mutations_of_these() -> None:
    for (script, _, fault), replacement in FAULTS.items():
        (m,) = (m for m in MUTATIONS if m.name == f"{fault}-{ANCESTORS[script]}")
        text = (ROOT / m.file).read_text(encoding="utf-8")
        assert m.file == replacement.file
        assert text.replace(m.before, m.after) == text.replace(replacement.before, replacement.after)


def test_a_fault_of_every_backend_is_written_once() -> None:
    one, other = read(
        "# a comment\n\n== backends/{backend}/vae.py, mean-field adam float64\n"
        "wrong (encoder): It is wrong: s.\n  jax\n    a = ⟦b → b(\n        c)⟧\n      + ⟦1 → 2⟧\n  pytorch\n    x⟦ → .T⟧\n"
    )
    assert (one.name, one.backend, one.file, one.before, one.after) == (
        *("wrong-jax", "jax", "backends/jax/vae.py"),
        *("a = b\n  + 1", "a = b(\n    c)\n  + 2"),
    )
    assert (other.name, other.before, other.after) == ("wrong-pytorch", "x", "x.T")
    assert (other.wrong, other.rung, other.scenario) == ("It is wrong: s.", "encoder", "mean-field adam float64")
    with pytest.raises(ValueError, match="this is nothing"):
        read("this is nothing\n")
