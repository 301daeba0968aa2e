"""An environment's variables leave a run's numbers as they are, or stand on its record."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.harness import environment, processes, records
from tests.harness.identical import assert_same_run
from tests.harness.test_cache import run

# Variables that choose a generator, a precision, how a function is compiled, or a strict mode.
WITHOUT_EFFECT = {
    "jax": {
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_THREEFRY_PARTITIONABLE": "0",
        "JAX_ENABLE_X64": "0",
        "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_DEBUG_NANS": "1",
    },
    "pytorch": {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "TORCHINDUCTOR_FREEZING": "1", "PYTORCH_JIT": "0"},
    "tensorflow": {
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_DETERMINISTIC_OPS": "1",
        "KERAS_BACKEND": "jax",
    },
}
# Variables that choose the instructions of the products.
WITH_EFFECT = {
    "jax": {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"},
    "pytorch": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
    "tensorflow": {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"},
}


@pytest.mark.parametrize("backend", WITHOUT_EFFECT)
def test_a_variable_changes_no_bit_or_is_told(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"variational": "flow", "flow_depth": 1}
    run(backend, tmp_path / "plain", **changes)
    for name, value in WITHOUT_EFFECT[backend].items():
        monkeypatch.setenv(name, value)
    record = run(backend, tmp_path / "set", **changes)
    assert_same_run(tmp_path / "set", tmp_path / "plain")
    assert record["environment"]["threads"]["variables"].items() >= WITHOUT_EFFECT[backend].items()
    assert environment.deciding(WITH_EFFECT[backend]) == WITH_EFFECT[backend]


def test_places_and_secrets_are_not_told() -> None:
    """Terraform's variables begin as TensorFlow's do."""
    others = {"TF_VAR_password": "a", "TF_TOKEN_host": "b", "TF_CLI_CONFIG_FILE": "c", "JAX_COMPILATION_CACHE_DIR": "d"}
    others |= {"CUDA_HOME": "e", "TORCH_HUB_TOKEN": "f", "HOME": "g", "PATH": "h"}
    assert environment.deciding(others | {"TF_XLA_FLAGS": "i"}) == {"TF_XLA_FLAGS": "i"}


@pytest.mark.parametrize("backend", ["jax", pytest.param("pytorch", marks=pytest.mark.slow)])
def test_a_switch_that_turns_compiling_off_stands_on_the_record(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = {"jax": "JAX_DISABLE_JIT", "pytorch": "TORCH_COMPILE_DISABLE"}[backend]
    monkeypatch.setenv(switch, "1")
    record = run(backend, tmp_path / "run", compile_from=1, samples=5, images=4)
    assert record["status"] == "ok"
    assert record["timing"]["uncompiled"] == f"{switch} is set"
    assert record["environment"]["threads"]["variables"][switch] == "1"
    assert records.read_all(tmp_path / "run")


def test_a_relative_folder_means_the_same_in_a_process_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAEBENCH_DATA_DIR", "digits")
    assert processes.ask(f"{__name__}:data_dir", None, title="data_dir") == str(tmp_path / "digits")


def data_dir(_: None) -> str:
    return os.environ["VAEBENCH_DATA_DIR"]
