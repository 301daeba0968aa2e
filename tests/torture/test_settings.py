"""Settings drawn over the whole config; each detector sees a careless run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.presets import flat
from benchmarks.torture import settings
from common.config import Config
from common.errors import UserError


def test_a_few_settings_of_a_backend(tmp_path: Path) -> None:
    tried = settings.rounds(6, seed=1, folder=tmp_path, tell=lambda n: None)
    assert tried.faults == []
    assert tried.rounds == 6
    assert tried.outcomes["pytorch: finite numbers"] > 0


def test_every_setting_is_drawn_and_a_round_can_be_drawn_again() -> None:
    assert settings.values().keys() == flat(Config()).keys() - {"image_shape"}
    drawn = [one for block in range(10) for one in settings.draws(0, block)]
    assert len(drawn) == 10 * settings.BLOCK
    assert {name for one in drawn for name in one["settings"]} == settings.values().keys()
    assert {one["images"] for one in drawn} == {*settings.IMAGES}
    assert any(one["bad"] for one in drawn)
    assert settings.draws(0, 3) == drawn[3 * settings.BLOCK : 4 * settings.BLOCK]
    assert settings.draws(0, 4) != settings.draws(1, 4)


def raising(question: dict[str, Any]) -> dict[str, float]:
    raise TypeError("a type")


def diverging(question: dict[str, Any]) -> dict[str, float]:
    return {"elbo": float("nan")}


def wordless(question: dict[str, Any]) -> dict[str, float]:
    raise UserError("")


@pytest.mark.parametrize(
    ("work", "said"), [(raising, "TypeError: a type"), (diverging, "not finite"), (wordless, "no sentence")]
)
def test_a_careless_run_is_seen(tmp_path: Path, work: Callable[[dict[str, Any]], dict[str, float]], said: str) -> None:
    tried = settings.rounds(1, seed=0, folder=tmp_path, tell=lambda n: None, work=work)
    (fault,) = tried.faults
    assert said in fault
