"""The ladder catches every fault of `mutations.txt`, at the rung that each names. Minutes: `make mutations` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.parity.comparison import Job
from tests.parity.conftest import catch
from tests.parity.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_ladder_catches(mutation: Mutation, climbed: dict[str, Job], tmp_path: Path) -> None:
    catch(mutation, climbed, tmp_path)
