"""The three backends mirror one another, file for file and name for name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from common.protocol import BACKENDS

FOLDER = Path(__file__).parents[2] / "backends"
# Files that a backend has beside the shared ones, each for something that its framework alone needs.
OWN_FILES = {
    "pytorch": {
        "compiling.py",  # torch.compile has options, a cache and errors; an eager run is the default
        "dense.py",  # on some processors PyTorch's own library of products isn't the fastest
        "graphs.py",  # Python launches each kernel unless a CUDA graph does
        "layout.py",  # PyTorch's weights have other axes than the portable state's
    },
    "jax": {
        "compiling.py",  # XLA's options and the cache, which several programs share
        "bfloat16.py",  # XLA's fast product of bfloat16 on a CPU needs a gradient written by hand
    },
    "tensorflow": {"bfloat16.py"},  # as in JAX
}
FILES = sorted({path.name for path in (FOLDER / BACKENDS[0]).glob("*.py")} - OWN_FILES[BACKENDS[0]])

ONE_CALL = {"__call__": "forward", "call": "forward"}
FRAMEWORKS_OWN_ARGUMENTS = {"dtype", "rngs"}  # of a layer: PyTorch's parameters are in `factors`, NNX draws initial values
# Public names that not every backend has.
NOT_EVERYWHERE = {
    "kernel_gradient",  # PyTorch's own is fast
    "Optimizer",  # Keras wants a subclass an update rule, and Adam and RMSprop share theirs
    "Adam",  # Keras's adds ε in another place
    "RMSprop",  # Optax has all its variants
    "programs_compiled",  # TensorFlow's is the protocol's default
    "product_library",  # PyTorch alone has two of them
    "uncompiled",  # as above: no switch turns XLA off there
    "mesh",  # JAX alone trains on several devices of one process
    "spread",  # JAX's arrays say how they lie on several devices
    "here",  # as above
}
# Public functions whose arguments differ: an optimizer is made from, and keeps its moments in, another thing in each framework.
OWN_ARGUMENTS = {"optimizers.py: create", "optimizers.py: load_moments", "optimizers.py: moments"}


def public(backend: str, file: str) -> dict[str, list[str]]:
    """Public functions, methods and constructors → names of their arguments, those of the framework left out."""
    found: dict[str, list[str]] = {}

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name not in NOT_EVERYWHERE and not node.name.startswith("_"):
                collect(node.body, f"{node.name}.")
            if isinstance(node, ast.FunctionDef) and node.name not in NOT_EVERYWHERE:
                name = ONE_CALL.get(node.name, node.name)
                if name in ("__init__", "forward") or not name.startswith("_"):
                    arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
                    drop = FRAMEWORKS_OWN_ARGUMENTS if file in ("networks.py", "resnet.py", "flow.py", "vae.py") else set()
                    own = f"{file}: {prefix}{name}" in OWN_ARGUMENTS
                    found[prefix + name] = [] if own else [a for a in arguments if a not in drop]

    collect(ast.parse((FOLDER / backend / file).read_text()).body, "")
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_files(backend: str) -> None:
    assert {path.name for path in (FOLDER / backend).glob("*.py")} == {*FILES, *OWN_FILES[backend]}


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
@pytest.mark.parametrize("other", BACKENDS[1:])
def test_the_same_names_and_signatures(file: str, other: str) -> None:
    ours = public(BACKENDS[0], file)
    assert ours
    assert public(other, file) == ours


def test_no_exception_is_idle() -> None:
    """Each name in NOT_EVERYWHERE is missing somewhere, and each function in OWN_ARGUMENTS differs."""
    sources = {b: [ast.parse((FOLDER / b / file).read_text()) for file in FILES] for b in BACKENDS}
    for name in NOT_EVERYWHERE:
        having = [
            b
            for b, trees in sources.items()
            for tree in trees
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
        ]
        assert 0 < len(set(having)) < len(BACKENDS), name
    for function in OWN_ARGUMENTS:
        file, name = function.split(": ")
        trees = [ast.parse((FOLDER / b / file).read_text()) for b in BACKENDS]
        signatures = {
            ast.unparse(node.args)
            for tree in trees
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == name
        }
        assert len(signatures) > 1, function


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_backend_has_a_default(backend: str) -> None:
    for path in (FOLDER / backend).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name != "step":  # torch.optim's signature
                assert not node.args.defaults, f"{path.name}: {node.name}"
                assert not any(node.args.kw_defaults), f"{path.name}: {node.name}"
