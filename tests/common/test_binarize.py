"""Images of one's own, grey and binary, in each file format; the draws are the same for everyone."""

import h5py
import numpy as np
import pytest

from common import binarize
from common.data import load
from common.errors import UserError
from common.image_files import SPLITS, parts

SIZES = {"train": 40, "valid": 7, "test": 9}


def grey_splits(*, dtype=np.uint8, shape=(4, 3)):
    draws = np.random.default_rng(0)
    grey = {split: draws.integers(0, 256, (size, *shape)) for split, size in SIZES.items()}
    return {split: (images / 255 if np.dtype(dtype).kind == "f" else images).astype(dtype) for split, images in grey.items()}


def write(path, splits, **more):
    """The splits as a file of the path's format; its name."""
    if path.suffix == ".npz":
        np.savez(path, **splits, **more)
    else:
        with h5py.File(path, "w") as file:
            file.attrs.update(more)
            for split, images in splits.items():
                file[split] = images
    return str(path)


@pytest.mark.parametrize("ending", [".h5", ".npz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_threshold_is_one_above_half_of_white(tmp_path, ending, dtype):
    splits = grey_splits(dtype=dtype)
    dataset = load(write(tmp_path / f"mine{ending}", splits), data_dir=None, binarize="threshold")
    for split in SPLITS:
        expected = splits[split].reshape(SIZES[split], 12) > (127.5 if np.dtype(dtype).kind in "iu" else 0.5)
        assert np.array_equal(getattr(dataset, split), expected)
        assert getattr(dataset, split).dtype == np.uint8
    assert (dataset.image_shape, dataset.binarize) == ((4, 3), "threshold")


def test_exactly_half_of_white_is_black(tmp_path):
    splits = {split: np.array([[0.5, np.nextafter(0.5, 1)]]) for split in SPLITS}
    assert load(write(tmp_path / "mine.npz", splits), data_dir=None, binarize="threshold").train.tolist() == [[0, 1]]
    splits = {split: np.array([[127, 128]], np.uint8) for split in SPLITS}
    assert load(write(tmp_path / "mine.npz", splits), data_dir=None, binarize="threshold").train.tolist() == [[0, 1]]


def test_bernoulli_draws_each_pixel_with_its_grey(tmp_path):
    grey = np.repeat(np.array([[0, 51, 128, 204, 255]], np.uint8), 4000, axis=0)
    dataset = load(write(tmp_path / "mine.npz", dict.fromkeys(SPLITS, grey)), data_dir=None, binarize="bernoulli")
    for split in SPLITS:
        p = grey[0] / 255
        assert (abs(getattr(dataset, split).mean(axis=0) - p) <= 4 * np.sqrt(p * (1 - p) / 4000)).all()
    # Splits have draws of their own: equal grey images don't become equal binary ones.
    assert (dataset.train != dataset.valid).mean() > 0.1
    assert (dataset.valid != dataset.test).mean() > 0.1


def test_a_split_is_drawn_alike_whatever_the_sizes_of_the_others(tmp_path):
    splits = grey_splits()
    whole = load(write(tmp_path / "mine.npz", splits), data_dir=None, binarize="bernoulli")
    less = load(write(tmp_path / "less.npz", splits | {"train": splits["train"][:10]}), data_dir=None, binarize="bernoulli")
    assert np.array_equal(less.train, whole.train[:10])
    assert np.array_equal(less.test, whole.test)


@pytest.mark.parametrize(
    ("method", "sha256"),
    [
        ("threshold", "1ce5c8d27cf36f2f255426f68c867404f8799ea76aadb6aaee64ef800b7900d4"),
        ("bernoulli", "62988f1ef8c41c8d9b101f0e77668656f1b7423eaf5b842969bd296f63844ff7"),
    ],
)
def test_everyone_gets_the_same_bits(tmp_path, method, sha256):
    """The hash is of the binary images: of uint8 and float files of one brightness, in any format, it is the same."""
    for dtype in (np.uint8, np.int32, np.float64):
        for ending in (".h5", ".npz"):
            name = write(tmp_path / f"mine{ending}", grey_splits(dtype=dtype))
            assert load(name, data_dir=None, binarize=method).sha256 == sha256


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        (np.int16, 256, "'valid' of .* values from 0 to 256; grey integers must be from 0 to 255"),
        (np.int16, -1, "values from -1 to .*; grey integers"),
        (np.float32, 255, "values from 0.0 to 255.0; grey floats must be from 0 to 1"),
        (np.float32, np.nan, "values from nan to nan; grey floats"),
        (np.float32, np.inf, "to inf; grey floats"),
    ],
)
def test_another_range_is_refused(tmp_path, dtype, value, words):
    splits = grey_splits(dtype=dtype)
    splits["valid"][0, 0, 0] = 0
    splits["valid"][1, 1, 1] = value
    name = write(tmp_path / "mine.npz", splits)
    for method in binarize.METHODS:
        with pytest.raises(UserError, match=words):
            load(name, data_dir=None, binarize=method)


def test_grey_images_need_a_method_and_binary_ones_none(tmp_path):
    grey, binary = write(tmp_path / "grey.npz", grey_splits()), tmp_path / "binary.npz"
    with pytest.raises(UserError, match=r"'train' of .*grey\.npz .*--binarize threshold and --binarize bernoulli"):
        load(grey, data_dir=None, binarize=None)
    splits = {split: (images > 127).astype(np.uint8) for split, images in grey_splits().items()}
    assert load(write(binary, splits), data_dir=None, binarize=None).binarize is None
    for name in (str(binary), "binarized-digits", "binarized-mnist"):
        with pytest.raises(UserError, match="are binary already; --binarize is for grey images"):
            load(name, data_dir=None, binarize="threshold")
    with pytest.raises(UserError, match=r"no way to binarize 'treshold'; .* Did you mean threshold\?"):
        load(grey, data_dir=None, binarize="treshold")


# --- formats ---


@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_a_file_may_say_its_image_shape(tmp_path, ending):
    flat = {split: images.reshape(len(images), 12) for split, images in grey_splits().items()}
    for splits, more, shape in (
        (flat, {}, (1, 12)),
        (flat, {"image_shape": (2, 6)}, (2, 6)),
        (grey_splits(), {}, (4, 3)),
        (grey_splits(), {"image_shape": (4, 3)}, (4, 3)),
    ):
        dataset = load(write(tmp_path / f"mine{ending}", splits, **more), data_dir=None, binarize="threshold")
        assert (dataset.image_shape, dataset.pixels) == (shape, 12)
    for more, words in (((3, 4), "is 3 × 4, but its images are 4 × 3"), ((5, 5), "whose product is 12")):
        with pytest.raises(UserError, match=words):
            load(write(tmp_path / f"mine{ending}", grey_splits(), image_shape=more), data_dir=None, binarize="threshold")


def test_an_array_is_split_once_for_everyone(tmp_path):
    images = np.arange(256).astype(np.uint8)[:, None].repeat(2, axis=1)[:105]
    found = parts(images)
    assert [len(found[split]) for split in SPLITS] == [85, 10, 10]
    assert sorted(np.concatenate([found[split][:, 0] for split in SPLITS])) == list(range(105)), "each image once"
    assert found["valid"][:, 0].tolist() == [81, 2, 48, 45, 25, 89, 32, 82, 63, 51]
    np.save(tmp_path / "mine.npy", images)
    dataset = load(str(tmp_path / "mine.npy"), data_dir=None, binarize="threshold")
    assert dataset.test.shape == (10, 2)
    np.save(tmp_path / "cube.npy", np.eye(12, dtype=bool).reshape(12, 3, 4))
    assert load(str(tmp_path / "cube.npy"), data_dir=None, binarize=None).image_shape == (3, 4)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mine.npy", np.zeros((9, 4), np.uint8), "has 9 images; .* at least 10"),
        ("mine.npy", np.zeros(40, np.uint8), "The array of .* has 1 axes"),
        ("mine.npy", np.zeros((10, 2, 2, 3), np.uint8), r"has images of several channels, \[10, 2, 2, 3\]"),
        ("mine.npy", np.full((10, 2), "a"), "type <U1"),
        ("mine.npy", np.full((10, 2), None), r"damaged \(Array can.t be memory-mapped: Python objects"),
        ("mine.npz", {"train": np.zeros((3, 4)), "valid": np.zeros((3, 4))}, "has no array 'test'"),
        (
            "mine.npz",
            {split: np.full((3, 4), None) for split in SPLITS},
            r"damaged \(Object arrays cannot be loaded",
        ),
        ("mine.npz", b"0 1 0", r"truncated or damaged \("),
        ("mine.npy", b"", r"truncated or damaged \("),
    ],
)
def test_another_numpy_file_is_refused(tmp_path, name, content, words):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=words) as caught:
        load(str(path), data_dir=None, binarize=None)
    assert "\n" not in str(caught.value)


def test_no_pickle_is_ever_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    np.savez(tmp_path / "mine.npz", train=np.array([[Bomb()]], dtype=object), valid=np.zeros((1, 1)), test=np.zeros((1, 1)))
    with pytest.raises(UserError, match="allow_pickle=False"):
        load(str(tmp_path / "mine.npz"), data_dir=None, binarize=None)


def test_arrays_that_are_not_asked_for_stay_unread(tmp_path):
    labels = {"test_labels": np.array(["a", None], dtype=object)}
    load(write(tmp_path / "mine.npz", grey_splits(), **labels), data_dir=None, binarize="threshold")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("ending", [".npz", ".npy"])
def test_a_truncated_file_is_refused(tmp_path, kept, ending):
    path = tmp_path / f"mine{ending}"
    images = np.random.default_rng(0).integers(0, 2, (500, 64), dtype=np.uint8)
    np.save(path, images) if ending == ".npy" else np.savez_compressed(path, **dict.fromkeys(SPLITS, images))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UserError, match="truncated or damaged"):
        load(str(path), data_dir=None, binarize=None)
