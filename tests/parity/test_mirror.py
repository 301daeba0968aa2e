"""The three backends mirror one another, file for file and name for name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from common.protocol import BACKENDS

FOLDER = Path(__file__).parents[2] / "backends"
FILES = sorted(path.name for path in (FOLDER / BACKENDS[0]).glob("*.py"))
ONE_CALL = {"__call__": "forward", "call": "forward"}
# What a framework asks of a subclass, and the layer that one has and another lacks.
OWN = {
    "Mask",
    "Buffer",
    "Optimizer",
    "Adam",
    "RMSprop",
    "MOMENTS",
    "slots",
    "load_moments",
    "moments",
    "build",
    "portable",
    "path",
    "variable",
    "rounding",
    "Linear",
    "bfloat16_product",
    "bfloat16_linear",
}
FRAMEWORKS_OWN_ARGUMENTS = {"dtype", "rngs"}


def public(backend: str, file: str) -> dict[str, list[str]]:
    """Public functions, methods and constructors → names of their arguments, the framework's own left out."""
    found = {}

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name not in OWN and not node.name.startswith("_"):
                collect(node.body, f"{node.name}.")
            if isinstance(node, ast.FunctionDef) and node.name not in OWN:
                name = ONE_CALL.get(node.name, node.name)
                if name in ("__init__", "forward") or not name.startswith("_"):
                    arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
                    keep_dtype = prefix == "Session." or not prefix
                    drop = set() if keep_dtype and file == "session.py" else FRAMEWORKS_OWN_ARGUMENTS
                    found[prefix + name] = [a for a in arguments if a not in drop]

    collect(ast.parse((FOLDER / backend / file).read_text()).body, "")
    return found


@pytest.mark.parametrize("other", BACKENDS[1:])
def test_the_same_files(other: str) -> None:
    assert sorted(path.name for path in (FOLDER / other).glob("*.py")) == FILES


@pytest.mark.parametrize("file", [file for file in FILES if file not in ("__init__.py", "optimizers.py")])
@pytest.mark.parametrize("other", BACKENDS[1:])
def test_the_same_names_and_signatures(file: str, other: str) -> None:
    ours, theirs = public(BACKENDS[0], file), public(other, file)
    assert ours
    private = {"seed_pair", "seed_for"}
    assert {k: v for k, v in theirs.items() if k not in private} == {k: v for k, v in ours.items() if k not in private}


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_backend_has_a_default(backend: str) -> None:
    for path in (FOLDER / backend).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name != "step":
                assert not node.args.defaults, f"{path.name}: {node.name}"
                assert not any(node.args.kw_defaults), f"{path.name}: {node.name}"
