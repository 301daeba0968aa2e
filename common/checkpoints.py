"""The portable HDF5 file of a run: any backend continues or evaluates what any other has trained. No pickle.

docs/checkpoint.md describes it field by field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from common.config import Config
from common.errors import UserError
from common.files import write_whole
from common.parameters import State, group, judged, shapes

SCHEMA = 1


@dataclass
class Checkpoint:
    """A run at the end of an interval."""

    config: Config
    backend: str
    preset: str
    dataset: str
    sha256: str
    state: State
    best: State = field(default_factory=dict)
    best_step: int = -1
    best_valid_elbo: float = -np.inf
    history: dict[str, list[float]] = field(default_factory=dict)
    earlier: list[tuple[str, int]] = field(default_factory=list)  # backends before this one, each with its last step

    def selected(self) -> State:
        """The parameters to test, by the run's selection."""
        return self.best if self._selects_best() else judged(self.state)

    def selected_step(self) -> int:
        """The steps behind `selected`."""
        return self.best_step if self._selects_best() else int(self.state["step"])

    def trained(self, steps: int) -> list[dict[str, Any]]:
        """Who trained the first `steps` steps: {backend, last_step} of each, in order."""
        parts = []
        for name, last in (*self.earlier, (self.backend, steps)):
            parts.append({"backend": name, "last_step": min(last, steps)})
            if last >= steps:
                break
        return parts

    def _selects_best(self) -> bool:
        return self.config.training.selection == "best-validation" and bool(self.best)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file whole or not at all. Raises `UserError` where it can't be written."""

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            file.attrs["schema"] = SCHEMA
            file.attrs["config"] = json.dumps(checkpoint.config.as_dict())
            for name in ("backend", "preset", "dataset", "sha256"):
                file.attrs[name] = getattr(checkpoint, name)
            file.attrs["earlier"] = json.dumps(checkpoint.earlier)
            for folder, arrays in (("state", checkpoint.state), ("best", checkpoint.best)):
                group = file.create_group(folder)
                for name, value in arrays.items():
                    group[name] = value
            file["best"].attrs.update({"step": checkpoint.best_step, "valid_elbo": checkpoint.best_valid_elbo})
            history = file.create_group("history")
            for name, column in checkpoint.history.items():
                history[name] = np.array(column, dtype=np.float64)

    write_whole(path, write)


def load(path: Path) -> Checkpoint:
    """Read a file that `save` wrote.

    Raises `UserError` where there is no such file, or it is damaged, no checkpoint, or not of its own config's model.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}; `python -m benchmarks run` writes one into its results folder.")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs["schema"] != SCHEMA:
                raise UserError(f"{path} has schema {file.attrs['schema']}, not {SCHEMA}; train the model again.")
            checkpoint = Checkpoint(
                config=Config.from_dict(json.loads(file.attrs["config"])),
                **{name: str(file.attrs[name]) for name in ("backend", "preset", "dataset", "sha256")},
                state=_arrays(file["state"]),
                best=_arrays(file["best"]),
                best_step=int(file["best"].attrs["step"]),
                best_valid_elbo=float(file["best"].attrs["valid_elbo"]),
                history={name: list(column[()]) for name, column in file["history"].items()},
                earlier=[(str(name), int(step)) for name, step in json.loads(file.attrs.get("earlier", "[]"))],
            )
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is not a checkpoint of this suite, or is damaged ({error}); train the model again.") from error
    expected = shapes(checkpoint.config.model)
    for found in (checkpoint.selected(), group(checkpoint.state, "parameters")):
        if {name: value.shape for name, value in found.items()} == expected:
            continue
        raise UserError(f"{path} holds the parameters of another model than its config says; train the model again.")
    return checkpoint


def _arrays(group: h5py.Group) -> State:
    arrays: State = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item[()])

    group.visititems(visit)
    return arrays
