"""The ladder catches every fault of `benchmarks.mutations`, at the rung that each names. Minutes: `make mutations` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutations import MUTATIONS, Mutation
from benchmarks.parity import Job
from tests.parity.conftest import catch


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_ladder_catches(mutation: Mutation, climbed: dict[str, Job], tmp_path: Path) -> None:
    catch(mutation, climbed, tmp_path)
