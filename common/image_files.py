"""Images of one's own: train, valid and test from an HDF5, .npz or .npy file."""

from __future__ import annotations

import contextlib
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from common.config import square_or_row
from common.errors import UserError
from common.files import DAMAGED_HDF5
from common.noise import ARRAY_SPLIT, generator

Splits = dict[str, np.ndarray]  # "train", "valid", "test" → [images, pixels]

SPLITS = ("train", "valid", "test")
ENDINGS = (".h5", ".hdf5", ".he5", ".npz", ".npy")  # usual; a file's content says its kind
IN_MEMORY = "arrays in memory"  # in place of a file's path
MOST_BYTES = 2**33  # of one stored array: what a file declares is read only below this
# What NumPy raises on damaged .npz and .npy files: zipfile and Python's own parser, which reads an array's header, raise these.
DAMAGED_NUMPY = (
    *(EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError),
    *(SyntaxError, tokenize.TokenError, RecursionError, TypeError, OverflowError),
)
# Version of an .npy file → the reader of its header.
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
ARRAY_SEED = 0  # not a run's seed: runs of several seeds train on the same images


def read(path: Path) -> tuple[Splits, tuple[int, int]]:
    """(train, valid and test, each [images, pixels] of the file's number type; rows and columns of an image).

    HDF5 and .npz: the arrays `train`, `valid` and `test`, each [images, pixels] or [images, rows, columns], with or without an
    axis of one channel before or after rows and columns. Of two axes, `image_shape`, an attribute (.npz: an array), says rows
    and columns; without it a square if that fits, else one row. .npy: one such array, see `parts`. A folder: train.npy,
    valid.npy and test.npy, an array each. MATLAB's arrays, which HDF5 has with their axes reversed, are turned back.

    Raises `UserError` for a file that is missing, damaged, holds Python objects, or isn't so.
    """
    if is_folder(path):
        return _flat({split: _alone(path / f"{split}.npy") for split in SPLITS}, None, path=path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path} is no regular file; give the place of an HDF5, .npz or .npy file as --data.")
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}; give the place of an HDF5, .npz or .npy file as --data.")
    with _readable(path):
        arrays, stated = READERS[_kind(path)](path)
    return _flat(arrays, stated, path=path)


def is_folder(path: Path) -> bool:
    """Whether the path is a folder with train.npy, valid.npy and test.npy."""
    return all(os.path.isfile(path / f"{split}.npy") for split in SPLITS)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises `UserError` in place of the errors of a file that may not be read, or is damaged."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); make the file readable.") from error
    except (*DAMAGED_HDF5, *DAMAGED_NUMPY) as error:
        reason = " ".join(str(error).split())  # it can have several lines
        raise UserError(f"{path} is truncated or damaged ({reason}); write it again.") from error


def labels(path: Path, *, images: int) -> np.ndarray | None:
    """The array `test_labels` of the file, whole numbers [images]; None where it has none. Raises `UserError` for any other."""
    found: Any = None
    if is_folder(path):
        return None
    with _readable(path):
        kind = _kind(path)
        if kind == ".h5":
            with h5py.File(path, "r", locking=False) as file:
                if (stored := _own(file, "test_labels", path=path)) is not None:
                    found = stored[...] if stored.shape == (images,) else stored.shape
        elif kind == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found = arrays.get("test_labels")
    if found is None:
        return None
    if not isinstance(found, np.ndarray) or found.shape != (images,) or found.dtype.kind not in "iu":
        raise UserError(f"'test_labels' of {path} must be {images} whole numbers, one a test image.")
    return found


def of_arrays(images: np.ndarray | Mapping[str, Any]) -> tuple[Splits, tuple[int, int]]:
    """As `read`, from arrays in memory: one as in an .npy file, or several by name as in an .npz file."""
    path = Path(IN_MEMORY)
    if isinstance(images, Mapping):
        found = {name: np.asarray(array) for name, array in images.items()}
        return _flat(_by_name(found, path=path), found.get("image_shape"), path=path)
    try:
        array = np.asarray(images)
    except ValueError as error:  # lists of different lengths
        raise UserError(f"The images are no array ({error}); give one array, or train, valid and test.") from error
    return _flat(_divided(array, path=path), None, path=path)


def _flat(arrays: Splits, stated: Any, *, path: Path) -> tuple[Splits, tuple[int, int]]:
    shapes = {split: arrays[split].shape[1:] for split in SPLITS}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{split} {list(shape)}" for split, shape in shapes.items())
        raise UserError(f"The splits of {path} differ in the shape of an image ({listed}); give all three the same.")
    image_shape = _image_shape(stated, shape=shapes["train"], path=path)
    return {split: images.reshape(len(images), -1) for split, images in arrays.items()}, image_shape


def parts(images: np.ndarray) -> Splits:
    """One array's images as valid and test, a tenth of the images each, rounded down, and train, the rest.

    Images are taken in the order of rising u [images], uniform on [0, 1): first valid, then test, then train.
    """
    order = np.argsort(generator(ARRAY_SEED, ARRAY_SPLIT).random(len(images)), kind="stable")
    tenth = len(images) // 10
    return {"train": images[order[2 * tenth :]], "valid": images[order[:tenth]], "test": images[order[tenth : 2 * tenth]]}


# The first bytes of a file → its kind, one of READERS or what the file is.
BEGINNINGS = {
    b"PK\x03\x04": ".npz",
    b"\x93NUMPY": ".npy",
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstandard",
    b"MATLAB 5.0": "MATLAB's older format (save it with -v7.3)",
    b"PAR1": "Parquet",
    b"\x00\x00\x08": "MNIST's own IDX format",
    b"\x80": "a Python pickle, which is never read",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}


def _kind(path: Path) -> str:
    """The key of READERS of the file's content. Raises `UserError` for any other content."""
    if h5py.is_hdf5(path):
        return ".h5"
    with path.open("rb") as file:
        start = file.read(16)
    found = next((kind for beginning, kind in BEGINNINGS.items() if start.startswith(beginning)), None)
    if found in READERS:
        return found
    if path.suffix in (".npz", ".npy") and not found:  # NumPy says what is wrong with it
        return path.suffix
    if path.suffix.lower() in ENDINGS and not found:
        raise UserError(f"{path} is not a readable HDF5 file; write it again, with h5py for example.")
    raise UserError(f"{path} is {found or 'no HDF5, .npz or .npy file'}; write train, valid and test with h5py or NumPy.")


def _h5(path: Path) -> tuple[Splits, Any]:
    with h5py.File(path, "r", locking=False) as file:  # a reader needs no lock, which a file system may lack
        found = {split: _own(file, split, path=path) for split in SPLITS}
        return {split: _numbers(found[split], f"'{split}'", path=path) for split in SPLITS}, file.attrs.get("image_shape")


def _own(file: h5py.File, split: str, *, path: Path) -> h5py.Dataset | None:
    """The split's array; None where there is none. Raises `UserError` for an array whose numbers lie in another file."""
    link = file.get(split, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise UserError(f"'{split}' of {path} is a link to {link.filename}; copy the array into the file.")
    stored = file.get(split)
    if not isinstance(stored, h5py.Dataset):
        return None
    if any(mark.startswith("rhdf5") for mark in stored.attrs):
        raise UserError(
            f"'{split}' of {path} was written by R's rhdf5, which may reverse its axes; write it with h5py or NumPy, or from R "
            "with native = TRUE and without the attribute rhdf5-NA.OK."
        )
    _decodable(stored, split, path=path)
    if stored.external or stored.is_virtual:
        raise UserError(f"The numbers of '{split}' of {path} lie in other files; copy the array into the file.")
    if stored.size and not _written(stored):  # HDF5 would read zeros
        raise UserError(f"'{split}' of {path} was not written whole; write the file again.")
    return stored


def _decodable(stored: h5py.Dataset, split: str, *, path: Path) -> None:
    """Raises `UserError` for a compression that HDF5 doesn't have here."""
    how = stored.id.get_create_plist()
    for code, _, _, name in (how.get_filter(i) for i in range(how.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            called = f"{name.decode(errors='replace')!r}, " if name else ""
            raise UserError(
                f"'{split}' of {path} is compressed by HDF5's filter {called}number {code}, which isn't installed here; write "
                "it with gzip or without compression."
            )


def _written(stored: h5py.Dataset) -> bool:
    """Whether the file has every part of the array."""
    if not stored.chunks:
        return bool(stored.id.get_storage_size())
    along = [-(-size // chunk) for size, chunk in zip(stored.shape, stored.chunks, strict=True)]
    return bool(stored.id.get_num_chunks() == math.prod(along))


def _npz(path: Path) -> tuple[Splits, Any]:
    with path.open("rb") as opened:
        if zipfile.is_zipfile(opened):
            archive = zipfile.ZipFile(opened)
            for stored in archive.infolist():
                _bounded(stored.file_size, stored.filename, path=path)
                if stored.filename.endswith(".npy"):
                    with archive.open(stored) as member:
                        _fits(member, stored, path=path)
        opened.seek(0)
        found = np.load(opened, allow_pickle=False)
        return _by_name(found, path=path), found.get("image_shape")


def _fits(member: IO[bytes], stored: zipfile.ZipInfo, *, path: Path) -> None:
    """Raises `UserError` where the header declares more numbers than the member has: NumPy would make room for them."""
    version = np.lib.format.read_magic(member)
    if version not in HEADERS:  # of types that aren't numbers, or none that NumPy knows
        raise UserError(f"'{stored.filename}' of {path} is of .npy version {version[0]}; write it with numpy.savez.")
    shape, _, kind = HEADERS[version](member)
    if math.prod(shape) * kind.itemsize > stored.file_size and not kind.hasobject:
        raise UserError(f"'{stored.filename}' of {path} has fewer numbers than its shape {list(shape)}; write the file again.")


def _by_name(arrays: Mapping[str, Any], *, path: Path) -> Splits:
    return {split: _numbers(arrays.get(split), f"'{split}'", path=path) for split in SPLITS}


def _npy(path: Path) -> tuple[Splits, Any]:
    return _divided(_mapped(path), path=path), None


def _alone(path: Path) -> np.ndarray:
    """The array of a split's own .npy file."""
    with _readable(path):
        if _kind(path) != ".npy":
            raise UserError(f"{path} is no .npy file; write it with numpy.save.")
        return _numbers(_mapped(path), "The array", path=path)


def _mapped(path: Path) -> np.ndarray:
    """The file's array; a header that declares more numbers than the file has is an error."""
    found: np.ndarray = np.load(path, allow_pickle=False, mmap_mode="r")
    return found


def _divided(stored: Any, *, path: Path) -> Splits:
    """`parts` of one array. Raises `UserError` for too few images."""
    images = _numbers(stored, "The array", path=path)
    if len(images) < 10:
        raise UserError(f"{path} has {len(images)} images; valid and test are a tenth each, so it needs at least 10.")
    return parts(images)


# Kind of file → its reader.
READERS: dict[str, Callable[[Path], tuple[Splits, Any]]] = {".h5": _h5, ".npz": _npz, ".npy": _npy}


def _numbers(stored: Any, name: str, *, path: Path) -> np.ndarray:
    """The values of a stored array, None for a missing one. Its type and shape are checked before the values are read.

    MATLAB marks its arrays, whose axes HDF5 has in reverse. An axis of one channel is left out.

    Raises `UserError` for an array that is missing, empty, not of numbers, or of another number of axes.
    """
    if stored is None:
        raise UserError(f"{path} has no array {name}; it needs train, valid and test, each [images, pixels].")
    reverse = isinstance(stored, h5py.Dataset) and "MATLAB_class" in stored.attrs
    shape = (stored.shape or ())[:: -1 if reverse else 1]
    channel = next((axis for axis in (3, 1) if len(shape) == 4 and shape[axis] == 1), None)
    if len(shape) == 4 and channel is None:
        raise UserError(f"{name} of {path} has images of several channels, {list(shape)}; give grey or binary images.")
    if len(shape) not in (2, 3, 4):
        raise UserError(
            f"{name} of {path} has {len(shape)} axes; it must have two, [images, pixels], or three, [images, rows, columns]."
        )
    if 0 in stored.shape:
        raise UserError(f"{name} of {path} is empty, {list(stored.shape)}; it needs at least one image of one pixel.")
    if stored.dtype.kind not in "biuf":
        raise UserError(f"{name} of {path} has type {stored.dtype}; it must be an integer, boolean or float type.")
    _bounded(stored.size * stored.dtype.itemsize, name, path=path)
    values: np.ndarray = np.array(stored[...])
    values = values.transpose() if reverse else values
    return values if channel is None else values.squeeze(channel)


def _bounded(size: int, name: str, *, path: Path) -> None:
    if size > MOST_BYTES:
        raise UserError(
            f"{name} of {path} has {size / 2**30:,.0f} GiB; at most {MOST_BYTES / 2**30:.0f} GiB are read: "
            "give fewer images, or a smaller number type."
        )


def _image_shape(stated: Any, *, shape: tuple[int, ...], path: Path) -> tuple[int, int]:
    """Rows and columns from the file's image_shape, or None, and an image's [pixels] or [rows, columns].

    Raises `UserError` where image_shape isn't two sizes of so many pixels, or other rows and columns than the images have.
    """
    pixels = int(np.prod(shape))
    if stated is None:
        return (shape[0], shape[1]) if len(shape) == 2 else square_or_row(pixels)
    sizes = np.asarray(stated)
    if sizes.shape != (2,) or sizes.dtype.kind not in "iu" or sizes.min() < 1 or int(sizes[0]) * int(sizes[1]) != pixels:
        raise UserError(f"The image_shape of {path} is {stated}; it must be two integers whose product is {pixels}.")
    rows, columns = int(sizes[0]), int(sizes[1])
    if len(shape) == 2 and shape != (rows, columns):
        raise UserError(f"The image_shape of {path} is {rows} × {columns}, but its images are {shape[0]} × {shape[1]}.")
    return rows, columns
