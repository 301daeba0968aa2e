"""The portable HDF5 file of a run: any backend continues or evaluates a run of any other. It holds no pickle.

docs/checkpoint.md describes it field by field.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from common.config import Config, check_settings
from common.errors import UserError
from common.files import DAMAGED_HDF5, begins_sealed, read_sealed, write_hdf5
from common.parameters import State, depths, fresh_state, group, judged, shapes

SCHEMA = 1

# Columns of a run's history; those of a group have a number each in every row.
POINTS = ("step", "objective", "elbo")  # means over the steps since the previous point
VALIDATIONS = ("valid_step", "valid_elbo")
PENDING = ("pending_objective", "pending_elbo")  # each step's values since the last point
CLOCK = ("chunk_steps", "chunk_seconds", "chunk_first")  # a row a chunk; 1 for a process's first of its length, which compiles
PLACEMENT = ("placement_seconds",)  # a row a process
CURVE = (*POINTS, *VALIDATIONS)
ROWS = (POINTS, VALIDATIONS, PENDING, CLOCK, PLACEMENT)

# Endings of files that lie beside checkpoints → what these files are.
OTHER_KINDS = dict.fromkeys((".safetensors", ".msgpack", ".weights.h5"), "an exported file of weights")
OTHER_KINDS |= {".json": "a record", ".npz": "a file of arrays", ".npy": "a file of arrays"}


@dataclass
class Checkpoint:
    """A run at a validation, or at the step where it was stopped."""

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
    binarize: str | None = None  # how the data set's grey images became binary
    timed_on: str = ""  # the machine, devices and versions of the history's times; "" in old files

    def selected(self) -> State:
        """The parameters to test, by the run's selection."""
        return self.best if self._selects_best() else judged(self.state)

    def selected_step(self) -> int:
        """The steps behind `selected`."""
        return self.best_step if self._selects_best() else int(self.state["step"])

    def trained(self, steps: int) -> list[dict[str, Any]]:
        """The backends that trained the first `steps` steps: {backend, last_step} of each, in order."""
        parts = []
        for name, last in (*self.earlier, (self.backend, steps)):
            parts.append({"backend": name, "last_step": min(last, steps)})
            if last >= steps:
                break
        return parts

    def _selects_best(self) -> bool:
        return self.config.training.selection == "best-validation" and bool(self.best)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file whole or not at all, sealed: `load` refuses it if a bit has changed. Raises `UserError` if it can't."""

    def fill(file: h5py.File) -> None:
        file.attrs["schema"] = SCHEMA
        file.attrs["config"] = json.dumps(checkpoint.config.as_dict())
        for name in ("backend", "preset", "dataset", "sha256"):
            file.attrs[name] = getattr(checkpoint, name)
        file.attrs["binarize"] = checkpoint.binarize or ""
        file.attrs["timed_on"] = checkpoint.timed_on
        file.attrs["earlier"] = json.dumps(checkpoint.earlier)
        for folder, arrays in (("state", checkpoint.state), ("best", checkpoint.best)):
            place = file.create_group(folder)
            for name, value in arrays.items():
                place[name] = value
        file["best"].attrs.update({"step": checkpoint.best_step, "valid_elbo": checkpoint.best_valid_elbo})
        history = file.create_group("history")
        for name, column in checkpoint.history.items():
            history[name] = np.array(column, dtype=np.float64)

    write_hdf5(path, fill)


def other_kind(path: Path) -> str | None:
    """What a file that isn't a checkpoint is, by its name or content; None for a checkpoint, and for what can't be read."""
    if kind := next((kind for ending, kind in OTHER_KINDS.items() if path.name.endswith(ending)), None):
        return kind
    try:
        if begins_sealed(path):
            return None
        with h5py.File(path, "r", locking=False) as file:
            if "schema" in file.attrs:
                return None
            return "a data set" if {"train", "valid", "test"} <= file.keys() else "another program's HDF5 file"
    except DAMAGED_HDF5:
        return None


def load(path: Path) -> Checkpoint:
    """Read a file that `save` wrote.

    Raises `UserError` if there is no such file, or the file is damaged, is no checkpoint, or holds another model than its
    config says.
    """
    if not os.path.isfile(path):  # Path.is_file raises for a folder that may not be entered
        raise UserError(f"There is no checkpoint {path}; `python -m benchmarks run` writes one into its results folder.")
    if kind := other_kind(path):
        raise UserError(f"{path} is {kind}, not a checkpoint; give an .h5 file that `python -m benchmarks run` wrote.")
    try:
        content = read_sealed(path)
        with h5py.File(path if content is None else io.BytesIO(content), "r", locking=False) as file:
            if (schema := file.attrs["schema"]) != SCHEMA:
                raise UserError(f"its file has schema {schema}, not {SCHEMA}.")
            checkpoint = Checkpoint(
                config=Config.from_dict(json.loads(file.attrs["config"])),
                **{name: str(file.attrs[name]) for name in ("backend", "preset", "dataset", "sha256")},
                binarize=str(file.attrs.get("binarize", "")) or None,
                timed_on=str(file.attrs.get("timed_on", "")),
                state=_arrays(file["state"]),
                best=_arrays(file["best"]),
                best_step=int(file["best"].attrs["step"]),
                best_valid_elbo=float(file["best"].attrs["valid_elbo"]),
                history=_history(_arrays(file["history"])),
                earlier=[(str(name), int(step)) for name, step in json.loads(file.attrs.get("earlier", "[]"))],
            )
        check_settings(checkpoint.config)
        fits = _fits(checkpoint)
        if fits and not 0 <= int(checkpoint.state["step"]) <= checkpoint.config.training.steps:
            raise UserError(f"its run is at step {int(checkpoint.state['step'])} of {checkpoint.config.training.steps}.")
    except UserError as error:
        reason = str(error).rstrip(".")
        raise UserError(f"{path} can't be read: {reason}; use the code that wrote it, or train again.") from error
    except PermissionError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); make the file readable.") from error
    except (*DAMAGED_HDF5, TypeError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())  # HDF5's messages can have several lines
        raise UserError(
            f"{path} is not a checkpoint of this suite, or is damaged ({reason}); train the model again."
        ) from error
    if not fits:
        raise UserError(f"{path} holds other arrays than its config's model and optimizer have; train the model again.")
    return checkpoint


def refuse_diverged(checkpoint: Checkpoint, *, path: Path) -> None:
    """Raises `UserError` where a selected parameter isn't a finite number; earlier versions saved such checkpoints."""
    if not all(np.isfinite(value).all() for value in checkpoint.selected().values()):
        raise UserError(
            f"The run of {path} diverged: its parameters aren't finite numbers; train again with a lower --learning-rate."
        )


def _fits(checkpoint: Checkpoint) -> bool:
    """Whether the arrays are exactly those of the config, by name, shape and dtype."""
    config, parameters = checkpoint.config, group(checkpoint.state, "parameters")
    latent, hidden = config.model.latent_size, config.model.hidden_size
    for name in depths(config.model):  # `shapes` makes masks of these sizes, which the file may not have
        made = f"{name}.blocks.0.made"
        sizes = [
            parameters[weight].shape for weight in (f"{made}.first.weight", f"{made}.second.weight") if weight in parameters
        ]
        if sizes != [(latent, hidden), (hidden, hidden)]:
            return False
    if _kinds(parameters) != {name: (shape, np.dtype(config.dtype)) for name, shape in shapes(config.model).items()}:
        return False
    whole = fresh_state(parameters, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    return _kinds(checkpoint.state) == _kinds(whole) and _kinds(checkpoint.selected()) == _kinds(parameters)


def _kinds(state: State) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in state.items()}


def _history(columns: State) -> dict[str, list[float]]:
    """The history's columns; rows of several columns that lack one of them, as in old files, are left out.

    Raises `UserError` for a column that isn't a list of numbers, and for rows whose columns differ in length.
    """
    history = {name: column.tolist() for name, column in columns.items()}
    if bad := [name for name, column in columns.items() if column.ndim != 1 or column.dtype.kind != "f"]:
        raise UserError(f"its history's {bad[0]} isn't a list of numbers.")
    for names in ROWS:
        there = [history[name] for name in names if name in history]
        if len({len(column) for column in there}) > 1:
            raise UserError(f"its history's {', '.join(names)} differ in length.")
        if len(there) < len(names):
            history = {name: column for name, column in history.items() if name not in names}
    return history


def _arrays(place: h5py.Group) -> State:
    """Raises `ValueError` for an array that declares more than the file has: a checkpoint's arrays aren't compressed."""
    arrays: State = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            if item.nbytes > item.id.get_storage_size():
                raise ValueError(f"{name} was not written whole")
            arrays[name] = np.asarray(item[()])

    place.visititems(visit)
    return arrays
