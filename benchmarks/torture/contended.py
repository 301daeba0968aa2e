"""Several processes at once in one results folder, one cache of data or one of compiled programs: the results of one alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from benchmarks.torture import same
from benchmarks.torture.running import Started, run
from benchmarks.torture.tried import Tell, Tried, choices
from common.config import FAMILIES
from common.protocol import BACKENDS

TITLE = (
    "Two or three processes at once in one results folder, data cache or compile cache: the results of one, nothing done twice"
)
AT_LEAST = 100
CACHE = "VAEBENCH_CACHE_DIR"  # environment variable: the folder of both caches
KINDS = ("results folder", "compile cache", "data cache")
SHORTER = ("--json", "--steps", "400")

# Loads a data set of MNIST's shape whose text files need no reading, and prints its SHA-256.
LOAD = """
import numpy as np
from pathlib import Path
from common import data

made = {split: np.random.default_rng(i).integers(0, 2, (data.MNIST_IMAGES[split], data.MNIST_PIXELS), np.uint8)
        for i, split in enumerate(data.SPLITS)}
data.PINNED["binarized-mnist"] = data.content_sha256(made)
data.read_amat = lambda path, *, split: made[split]
data._mnist_file = lambda folder, split: folder
print(data.load("binarized-mnist", data_dir=Path("."), binarize=None).sha256)
"""


def rounds(count: int, *, seed: int, folder: Path, tell: Tell) -> Tried:
    """A round is one kind of contention; those of runs go through the backends."""
    tried = Tried()
    undisturbed: dict[tuple[str, str], tuple[Path, float]] = {}
    for number in range(count):
        kind, backend = KINDS[number % len(KINDS)], BACKENDS[number // len(KINDS) % len(BACKENDS)]
        own = folder / str(number)
        if kind == "data cache":
            tried.add(kind, faults=of_data(own, seed=seed, number=number))
        else:
            for family in FAMILIES:
                if (backend, family) not in undisturbed:
                    whole, began = folder / f"{backend}-{family}", time.monotonic()
                    if (ended := Started(*run(backend, family, whole, *SHORTER)).end()).code:
                        raise RuntimeError(f"the undisturbed run ended with code {ended.code}: {ended.error[-500:]}")
                    undisturbed[backend, family] = whole, time.monotonic() - began
            wholes: dict[str, tuple[Path, float]] = {family: undisturbed[backend, family] for family in FAMILIES}
            of_kind = of_results if kind == "results folder" else of_programs
            tried.add(f"{kind}, {backend}", faults=of_kind(backend, own, wholes, seed=seed, number=number))
        tell(1)
    return tried


def of_results(backend: str, folder: Path, wholes: dict[str, tuple[Path, float]], *, seed: int, number: int) -> list[str]:
    """The faults of two or three same runs in one folder: each shows the one record; one process has trained."""
    random = choices(seed, number)
    family = str(random.choice(FAMILIES))
    whole, seconds = wholes[family]
    arguments = [argument for argument in run(backend, family, folder, *SHORTER) if argument != "--quiet"]
    started = []
    for _ in range(random.integers(2, 4)):
        started.append(Started(*arguments))
        time.sleep(random.random() * seconds * random.integers(0, 2))
    ends = [each.end() for each in started]
    faults = [fault for ended in ends for fault in ended.faults()]
    if any(ended.code for ended in ends):
        return [*faults, f"they ended with codes {[ended.code for ended in ends]}: {ends[-1].error[-300:]}"]
    if len({json.dumps(json.loads(ended.out)) for ended in ends}) > 1:
        faults.append("they show different records: the run was done twice")
    if (trained := sum(" train 400/400 steps" in ended.error for ended in ends)) != 1:
        faults.append(f"{trained} processes have trained")
    return [*faults, *same.differences(folder, whole)]


def of_programs(backend: str, folder: Path, wholes: dict[str, tuple[Path, float]], *, seed: int, number: int) -> list[str]:
    """The faults of runs of both families at once that share an empty cache of compiled programs."""
    random = choices(seed, number)
    started = []
    for family in FAMILIES:
        variables = {CACHE: str(folder / "cache")}
        started.append(Started(*run(backend, family, folder / family, *SHORTER), variables=variables))
        time.sleep(float(random.random()))
    faults = []
    for family, each in zip(FAMILIES, started, strict=True):
        ended = each.end()
        faults += ended.faults()
        if ended.code:
            faults.append(f"{family} ended with code {ended.code}: {ended.error[-300:]}")
        else:
            faults += [f"{family}: {difference}" for difference in same.differences(folder / family, wholes[family][0])]
    return faults


def of_data(folder: Path, *, seed: int, number: int) -> list[str]:
    """The faults of three processes that load one data set at once, the cache empty or damaged."""
    random = choices(seed, number)
    if random.random() < 0.5:
        folder.mkdir()
        (folder / "binarized-mnist.h5").write_bytes(bytes(np.asarray(random.integers(0, 256, 4000), np.uint8)))
    started = []
    for _ in range(3):
        started.append(Started(program=("-c", LOAD), variables={CACHE: str(folder)}))
        time.sleep(random.random() * 0.5)
    ends = [each.end() for each in started]
    faults = [fault for ended in ends for fault in ended.faults()]
    if any(ended.code for ended in ends) or len({ended.out for ended in ends}) != 1:
        faults.append(f"they ended so: {[(ended.code, ended.out, ended.error[-200:]) for ended in ends]}")
    left = sorted(path.name for path in folder.iterdir())
    return faults if left == ["binarized-mnist.h5"] else [*faults, f"the cache has {left}"]
