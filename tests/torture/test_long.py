"""Memory, files and threads of a long process are flat within noise, and growth beyond it is found."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from benchmarks.torture import long
from benchmarks.torture.long import MIB, Sample
from benchmarks.torture.running import Started

LEAK = """
import time
kept = []
for _ in range(40):
    kept.append((bytearray(4 * 2**20), open("/dev/null")))
    time.sleep(0.1)
"""


def test_growth_beyond_noise_is_found() -> None:
    flat = [Sample(memory=(300 + i % 3) * MIB, files=20, threads=9) for i in range(40)]
    assert long.growth(flat)[1] == []
    assert long.growth([Sample(each.memory + 2 * i * MIB, each.files, each.threads) for i, each in enumerate(flat)])[1]
    assert "files" in long.growth([Sample(each.memory, each.files + i // 4, 9) for i, each in enumerate(flat)])[1][0]
    assert "threads" in long.growth([Sample(each.memory, 20, i) for i, each in enumerate(flat)])[1][0]


def test_a_process_that_leaks_is_found(tmp_path: Path) -> None:
    assert sys.platform == "linux"
    samples, ended = long.watched(Started(program=("-c", LEAK)), lambda started: psutil.Process(started.process.pid))
    assert ended.code == 0
    assert long.growth(samples)[1]
