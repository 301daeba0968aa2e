"""The study of the scenarios: what it plans, and what its report shows of a fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.outputs import markdown
from benchmarks.studies import reliability
from benchmarks.torture.tried import Tried, choices
from common.errors import UserError


def tried(count: int, *, seed: int, folder: Path, tell: Callable[[int], None]) -> Tried:
    assert list(folder.iterdir()) == []
    result = Tried()
    for number in range(count):
        result.add("odd" if number % 2 else "even", faults=[f"seed {seed} is\nlost"] if number == 3 else None)
        tell(1)
    return result


@pytest.fixture
def scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(TITLE="numbers", AT_LEAST=5, rounds=tried)
    monkeypatch.setattr(reliability, "scenarios", lambda: {"numbers": made, "others": made})


def report(**given: object) -> dict[str, object]:
    asked = reliability.Arguments(**given)  # type: ignore[arg-type]
    points = reliability.plan(asked)
    measured = [(point, reliability.run(point) | {"commit": f"commit of {name}"}) for name, point in points.items()]
    return reliability.content(asked, measured)


@pytest.mark.usefixtures("scenario")
def test_a_report_has_the_outcomes_and_a_fault_fails_it() -> None:
    found = report(seed=7) | {"environment": {"machine": None, "threads": None, "commit": None, "versions": {}}}
    assert [row["scenario"] for row in found["rows"]] == ["numbers", "others"]
    assert reliability.failed(found)
    page = markdown.page(reliability.parts(found))
    assert "| numbers | 5 | 5 | 0.0 | even: 3; odd: 2 | 1 | commit of numbers |" in page
    assert "numbers, round 3: seed 7 is lost" in page
    assert not reliability.failed(report(rounds=3))
    assert [row["rounds"] for row in report(rounds=3)["rows"]] == [3, 3]


@pytest.mark.usefixtures("scenario")
def test_a_scenario_is_named() -> None:
    assert list(reliability.plan(reliability.Arguments(scenario=("others",)))) == ["others"]
    with pytest.raises(UserError, match="no scenario 'kill'"):
        reliability.check(reliability.Arguments(scenario=("kill",)))
    with pytest.raises(UserError, match="--rounds is 0"):
        reliability.check(reliability.Arguments(rounds=0))


def test_outcomes_are_in_order_and_counted_where_a_count_tells_something() -> None:
    assert reliability.told({"b": 1_000, "a": 1}) == ["a: 1", "b: 1,000"]
    assert reliability.told({"memory 1 → 2": 1, "files 3 → 3": 1}) == ["files 3 → 3", "memory 1 → 2"]


def test_every_scenario_says_what_it_is() -> None:
    for name, module in reliability.scenarios().items():
        assert module.TITLE, name
        assert module.AT_LEAST >= 1, name


def test_choices_follow_from_the_seed_and_the_rounds_number() -> None:
    draws = [choices(*each).integers(2**60) for each in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert draws[0] == draws[1]
    assert len({*draws}) == 3
