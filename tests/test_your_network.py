"""The patch of docs/your-network.md, applied to a copy of the checkout: a network of JAX's alone, whose record says so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import copies, records
from benchmarks.harness.environment import ROOT
from common import checkpoints
from common.config import Config
from common.errors import UserError
from common.parameters import count

TINY = "--variational mean-field --steps 40 --chunk 10 --samples 5"


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(done, cwd=folder, capture_output=True, text=True, check=False)


def test_a_network_in_one_framework_is_named_and_counted_and_breaks_no_other(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    if (ROOT / "backends/jax/deep.py").exists():
        pytest.skip("The patch is applied to this checkout itself.")
    copy, results = tmp_path / "copy", tmp_path / "results"
    copies.copied(copy)
    (copy / "tests/parity").mkdir(parents=True)
    shutil.copy(ROOT / "tests/parity/test_mirror.py", copy / "tests/parity")
    (patch,) = re.findall(r"```diff\n(.*?)```", (ROOT / "docs/your-network.md").read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run(["git", "apply", "-"], cwd=copy, input=patch, text=True, check=True)
    run = ["run", *TINY.split(), "--results", str(results)]

    done = command(copy, *run, "--backend", "jax", "--network", "deep")
    assert done.returncode == 0, done.stderr
    (record,) = records.read_all(results)
    assert "+network-deep" in next(results.glob("*.json")).name
    assert record["config"]["model"]["network"] == "deep"
    usual = Config.from_dict(record["config"]).replace(network="mlp")
    assert record["parameters"] == count(usual.model) + 2 * (128 * 128 + 128), "the third layers of encoder and decoder"
    assert record["timing"]["floor_s"] > 0
    ask = "from benchmarks.harness.floor import products; from common.config import Config; print(*(len(products("
    ask += "Config().replace(network=name))) for name in ('mlp', 'deep')))"
    counted = subprocess.run([sys.executable, "-c", ask], cwd=copy, capture_output=True, text=True, check=True).stdout.split()
    assert int(counted[1]) == int(counted[0]) + 2 * 3

    refused = command(copy, *run, "--backend", "pytorch", "--network", "deep")
    assert refused.returncode == 2
    assert "Backend 'pytorch' has no network 'deep', only mlp, resnet; choose another." in refused.stderr
    done = command(copy, *run, "--backend", "pytorch")
    assert done.returncode == 0, done.stderr
    mirror = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(copy)]
    mirrored = subprocess.run([*mirror, "tests/parity/test_mirror.py"], cwd=copy, capture_output=True, text=True, check=False)
    assert mirrored.returncode == 0, mirrored.stdout

    with pytest.raises(UserError, match="--network is deep; it must be one of mlp, resnet; use the code that wrote it"):
        checkpoints.load(next(results.glob("*deep*.h5")))
