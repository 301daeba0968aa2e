"""Files with changed bytes: each is refused with a sentence, or is what it was."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np

from benchmarks.harness import per_image, record_schema, records
from benchmarks.harness.record_schema import Record
from benchmarks.torture import bounded
from benchmarks.torture.tried import Tell, Tried, choices
from common import checkpoints, data, parameters
from common.checkpoints import Checkpoint
from common.config import Config
from common.image_files import SPLITS, Splits

TITLE = (
    "files with changed bytes (checkpoint, data, record, `.amat`, cache, per-image file; random, structural, bits of metadata)"
)
AT_LEAST = 10_000
PATIENCE = 20.0  # seconds for one file
GROWN = 500 * 10**6  # bytes

CONFIG = Config().replace(image_shape=(4, 5), latent_size=2, hidden_size=4, steps=20, batch_size=4)
PUBLISHED = {"train": 6, "valid": 3, "test": 2}  # images of the .amat files that stand for binarized MNIST's

Content = dict[str, str]  # the SHA-256 of a file's `content`, and the text by which a record or a command knows it
Change = Callable[[bytes, "np.random.Generator", list[int]], bytes]


# --- the files ---


def made(folder: Path) -> dict[str, Path]:
    """Kind → a whole file of it. The folder has the .amat files' siblings and the record of the per-image file, too."""
    images = drawn(pixels=20, images=(16, 8, 8))
    identity = data.content_sha256(images)
    save_checkpoint(folder / "checkpoint.h5", sha256=identity)
    with h5py.File(folder / "data.h5", "w") as file:
        for split in SPLITS:
            file.create_dataset(split, data=images[split], chunks=(4, 20), compression="gzip")
        file.attrs["image_shape"] = (4, 5)
    with h5py.File(folder / "plain.h5", "w") as file:
        for split in SPLITS:
            file[split] = images[split].reshape(-1, 4, 5)
    np.savez_compressed(folder / "data.npz", allow_pickle=False, image_shape=np.array((4, 5)), **images)
    np.save(folder / "data.npy", images["train"])
    for split, amat in amats().items():
        (folder / f"binarized_mnist_{split}.amat").write_bytes(amat)
    (folder / "zipped").mkdir()
    for split, amat in amats().items():
        (folder / "zipped" / f"binarized_mnist_{split}.amat.gz").write_bytes(gzip.compress(amat, mtime=0))
    with in_cache(folder), published():
        data.mnist(folder)
    result = record(sha256=identity)
    arrays = {"image": np.arange(8), "elbo": -np.arange(8.0), "log_px": -np.arange(8.0) / 2}
    result["test"]["per_image"] = per_image.write(arrays, result, folder=folder)
    path = records.write(result, folder)
    return {
        "checkpoint": folder / "checkpoint.h5",
        "HDF5 data": folder / "data.h5",
        "plain HDF5 data": folder / "plain.h5",
        ".npz data": folder / "data.npz",
        ".npy data": folder / "data.npy",
        "record": path,
        ".amat": folder / "binarized_mnist_valid.amat",
        ".amat.gz": folder / "zipped" / "binarized_mnist_valid.amat.gz",
        "cache": folder / "binarized-mnist.h5",
        "per-image": path.with_suffix(".npz"),
    }


def drawn(*, pixels: int, images: tuple[int, int, int]) -> Splits:
    draws = np.random.default_rng(0)
    return {split: draws.integers(0, 2, (count, pixels), dtype=np.uint8) for split, count in zip(SPLITS, images, strict=True)}


def amats() -> dict[str, bytes]:
    """Split → its text."""
    images = drawn(pixels=data.MNIST_PIXELS, images=(PUBLISHED["train"], PUBLISHED["valid"], PUBLISHED["test"]))
    return {split: "".join(" ".join(map(str, image)) + "\n" for image in images[split]).encode() for split in SPLITS}


@contextlib.contextmanager
def published() -> Iterator[None]:
    """The small .amat files stand for the published ones."""
    images = drawn(pixels=data.MNIST_PIXELS, images=(PUBLISHED["train"], PUBLISHED["valid"], PUBLISHED["test"]))
    hashes = {split: hashed(amat) for split, amat in amats().items()}
    with (
        mock.patch.dict(data.MNIST_IMAGES, PUBLISHED),
        mock.patch.dict(data.MNIST_SHA256, hashes),
        mock.patch.dict(data.PINNED, {"binarized-mnist": data.content_sha256(images)}),
    ):
        yield


@contextlib.contextmanager
def in_cache(folder: Path) -> Iterator[None]:
    with mock.patch.dict(os.environ, {"VAEBENCH_CACHE_DIR": str(folder)}):
        yield


def save_checkpoint(path: Path, *, sha256: str) -> None:
    initial = parameters.initial_parameters(CONFIG.model, training=CONFIG.training, pixel_log_odds=np.zeros(20))
    state = parameters.fresh_state(initial, optimizer=CONFIG.optimizer, training=CONFIG.training, dtype=CONFIG.dtype)
    state["step"] = np.array(10, np.int64)
    history = {"step": [5.0, 10.0], "elbo": [-14.0, -13.5], "valid_step": [10.0], "valid_elbo": [-13.25]}
    checkpoint = Checkpoint(CONFIG, "jax", "quick", "data.h5", sha256, state, best=initial, best_step=10, history=history)
    checkpoints.save(checkpoint, path)


def record(*, sha256: str) -> Record:
    """That of a finished run."""
    result = record_schema.blank(CONFIG, backend="jax", dataset_name="data.h5", dataset_sha256=sha256, preset="quick")
    result |= {"status": "ok", "reason": None, "parameters": 150, "trained": [{"backend": "jax", "last_step": 20}]}
    result["curve"] = {"step": [5, 10], "objective": [-14.5, -14.0], "elbo": [-14.0, -13.5]}
    result["curve"] |= {"valid_step": [10], "valid_elbo": [-13.25]}
    result["timing"] |= {"setup_s": 0.5, "steady_s": 2.5, "examples_per_s": 1234.5}
    result["test"] |= {"elbo": -13.5, "elbo_se": 0.25, "log_px": -13.0, "log_px_se": 0.125, "importance_samples": 10}
    result["test"]["images"] = 8
    return result


def hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- reading them ---


def load(question: dict[str, str]) -> Content:
    """The content of a file of this kind, by the product's own reader."""
    path, kind = Path(question["path"]), question["kind"]
    known_by = ""
    content: Any
    if kind == "checkpoint":
        content = vars(checkpoints.load(path))
    elif kind.endswith("data"):
        dataset = data.load(str(path), data_dir=None, binarize=None)
        content = [dataset.train, dataset.valid, dataset.test, dataset.image_shape]
        known_by = f"{dataset.sha256} {dataset.image_shape}"
    elif kind == "record":
        content = records.read(path)
        known_by = str(content.pop("edited", False))
    elif kind.startswith(".amat"):
        with published():
            content = data.read_amat(path, split="valid")
    elif kind == "cache":
        with published(), in_cache(path.parent):
            content = data.mnist(Path(question["folder"]))
    else:
        content = per_image.read(Path(question["record"]))
    return {"content": hashed(_text(content).encode()), "known_by": known_by}


def _text(value: Any) -> str:
    """The value with every type, shape and bit."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {value.tobytes().hex()}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_text(inner)}" for key, inner in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return repr(value)


# --- changing them ---


def metadata(path: Path) -> list[int]:
    """The places of bytes that aren't an array's numbers: all of them outside HDF5, .npz and .npy."""
    content = path.read_bytes()
    if path.suffix in (".npz", ".npy"):
        return [*range(min(200, len(content))), *range(max(200, len(content) - 500), len(content))]
    free = np.ones(len(content), bool)
    if path.suffix == ".h5":
        with h5py.File(path) as file:

            def visit(_: str, item: h5py.Group | h5py.Dataset) -> None:
                if not isinstance(item, h5py.Dataset) or not item.shape:
                    return
                places = [(item.id.get_offset(), item.id.get_storage_size())]
                if item.chunks:
                    chunks = [item.id.get_chunk_info(i) for i in range(item.id.get_num_chunks())]
                    places = [(chunk.byte_offset, chunk.size) for chunk in chunks]
                for offset, size in places:
                    if offset is not None:
                        free[offset : offset + size] = False

            file.visititems(visit)
    return [int(place) for place in np.flatnonzero(free)]


def _overwritten(content: bytes, draws: np.random.Generator, _: list[int]) -> bytes:
    start, some = int(draws.integers(len(content))), draws.bytes(int(draws.integers(1, 65)))
    return (content[:start] + some + content[start + len(some) :])[: len(content)]


def _flipped(content: bytes, draws: np.random.Generator, places: list[int]) -> bytes:
    changed = bytearray(content)
    changed[places[draws.integers(len(places))]] ^= 1 << int(draws.integers(8))
    return bytes(changed)


def _flipped_anywhere(content: bytes, draws: np.random.Generator, _: list[int]) -> bytes:
    return _flipped(content, draws, [*range(len(content))])


def _zeroed(content: bytes, draws: np.random.Generator, _: list[int]) -> bytes:
    block, start = _block(content, draws)
    return content[:start] + b"\0" * len(content[start : start + block]) + content[start + block :]


def _swapped(content: bytes, draws: np.random.Generator, _: list[int]) -> bytes:
    block, first = _block(content, draws)
    second = int(draws.integers(len(content) // block + 1)) * block
    first, second = sorted((first, second))
    if first == second:
        return content
    one, other = content[first : first + block], content[second : second + block]
    return content[:first] + other + content[first + block : second] + one + content[second + block :]


def _block(content: bytes, draws: np.random.Generator) -> tuple[int, int]:
    """(size, start) of a block that begins at a multiple of its size."""
    block = int(draws.choice([64, 512, 4096]))
    return block, int(draws.integers(len(content) // block + 1)) * block


def _number(content: bytes, draws: np.random.Generator, _: list[int]) -> bytes:
    """One decimal digit becomes another, as an editor would leave it; a file without one loses its first byte."""
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
    if not digits:
        return content[1:]
    changed = bytearray(content)
    place = digits[draws.integers(len(digits))]
    changed[place] = ord("0") + (changed[place] - ord("0") + int(draws.integers(1, 10))) % 10
    return bytes(changed)


def _inserted(content: bytes, draws: np.random.Generator, _: list[int]) -> bytes:
    start = int(draws.integers(len(content)))
    return content[:start] + draws.bytes(int(draws.choice([1, 8, 512]))) + content[start:]


def _removed(content: bytes, draws: np.random.Generator, _: list[int]) -> bytes:
    start = int(draws.integers(len(content)))
    return content[:start] + content[start + int(draws.choice([1, 8, 512])) :]


CHANGES: dict[str, Change] = {
    "bytes overwritten": _overwritten,
    "a bit of metadata": _flipped,
    "a bit": _flipped_anywhere,
    "truncated": lambda content, draws, _: content[: int(draws.integers(len(content)))],
    "doubled": lambda content, draws, _: content + content[int(draws.choice([0, 512, len(content) // 2])) :],
    "a block zeroed": _zeroed,
    "blocks swapped": _swapped,
    "bytes inserted": _inserted,
    "bytes removed": _removed,
    "a digit": _number,
}


# --- the rounds ---


@dataclasses.dataclass
class _Original:
    path: Path
    bytes: bytes
    places: list[int]
    content: Content


def rounds(count: int, *, seed: int, folder: Path, tell: Tell, work: Callable[[dict[str, str]], Content] = load) -> Tried:
    """`work` reads a file: `load`, or in a test a reader that is careless."""
    tried = Tried()
    whole = folder / "whole"
    whole.mkdir()
    files = made(whole)
    places = {"folder": str(whole), "record": str(files["record"])}
    originals = {
        kind: _Original(path, path.read_bytes(), metadata(path), load({"kind": kind, "path": str(path)} | places))
        for kind, path in files.items()
    }
    with bounded.asked(work, patience=PATIENCE, folder=folder) as process:
        for number in range(count):
            draws = choices(seed, number)
            kind = str(draws.choice([*files]))
            change = str(draws.choice([*CHANGES]))
            original = originals[kind]
            changed = CHANGES[change](original.bytes, draws, original.places)
            place = original.path if kind == "per-image" else folder / original.path.name
            place.write_bytes(changed)
            answer = process.ask({"kind": kind, "path": str(place)} | places)
            outcome, fault = judged(answer, original.content)
            tried.add(outcome, faults=[f"{kind}, {change}: {fault}"] if fault else None)
            if kind == "per-image":
                place.write_bytes(original.bytes)
            tell(1)
    return tried


def judged(answer: bounded.Answer, original: Content) -> tuple[str, str | None]:
    """(outcome, fault or None) of reading a changed file."""
    if answer.fault:
        return "a crash, a hang or a traceback", answer.fault
    if answer.grown > GROWN or (answer.refusal and "allocate" in answer.refusal):
        return "more than 500 MB", f"memory grew by {answer.grown / 1e6:.0f} MB: {answer.refusal or 'loaded'}"
    if answer.refusal is not None:
        return "refused with a sentence", None if answer.refusal else "the refusal says nothing"
    if answer.value["content"] == original["content"]:
        return "read, and equal to the last bit", None
    if answer.value["known_by"] != original["known_by"]:
        return "read as other data, with another hash on its record, or as an edited record", None
    return "other content, unseen", "other content was loaded and nothing tells it from the original"
