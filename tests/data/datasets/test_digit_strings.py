"""Digit strings: labels, layout, and nothing of the test digits in training."""

from dataclasses import replace

import numpy as np
import pytest

from vitjax.data.config import DataConfig
from vitjax.data.datasets import digit_strings
from vitjax.data.datasets.digit_strings import ALPHABET, GAPS, MAX_DIGITS, render
from vitjax.data.datasets.digits import split_digits
from vitjax.data.datasets.distortion import CELL, Distortion, distort, undistorted
from vitjax.data.sources import build_source

STILL = Distortion(**{name: 0.0 for name in Distortion.__dataclass_fields__})


def examples(data_dir, split):
    source = build_source(DataConfig("digit_strings", data_dir=data_dir), split)
    return [source[place] for place in range(len(source))]


def drawn(example, digits):
    """The image that the stored digits and boxes say, pixel for pixel."""
    canvas = np.zeros(example["image"].shape[:2], np.uint8)
    images = {int(index): image for index, image in zip(digits.index, digits.images, strict=True)}
    for (left, top, right, bottom), index in zip(example["boxes"], example["digits"], strict=True):
        canvas[top:bottom, left:right] = np.maximum(canvas[top:bottom, left:right], images[int(index)])
    return canvas


def test_test_strings_are_real_test_digits_as_they_are(data_dir):
    digits = split_digits()["test"]
    for example in examples(data_dir, "test"):
        assert np.array_equal(example["image"][..., 0], drawn(example, digits))


def test_training_strings_come_from_training_digits_only_and_are_distorted(data_dir):
    splits = split_digits()
    train, test = set(splits["train"].index.tolist()), set(splits["test"].index.tolist())
    strings = examples(data_dir, "train")
    used = {int(index) for example in strings for index in example["digits"]}
    assert used <= train and not used & test
    assert len(used) > 0.8 * len(train)
    # The pixels, not only what is said about them: close to those training digits, but not the same.
    differences = []
    for example in strings[:200]:
        plain = drawn(example, splits["train"]).astype(float)
        pixels = example["image"][..., 0].astype(float)
        assert np.corrcoef(plain.ravel(), pixels.ravel())[0, 1] > 0.5
        differences.append(np.abs(plain - pixels).sum() / plain.sum())
    assert np.median(differences) > 0.15


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_and_layout(data_dir, split):
    digits = split_digits()[split]
    label_of = dict(zip(digits.index.tolist(), digits.labels.tolist(), strict=True))
    gaps, lengths, heights = set(), [], set()
    for example in examples(data_dir, split):
        text, boxes = example["text"], example["boxes"]
        assert text == "".join(str(label_of[int(index)]) for index in example["digits"])
        assert 1 <= len(text) == len(boxes) <= MAX_DIGITS
        assert example["image"].shape == (16, 64, 1)
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 64).all() and (boxes[:, 3] <= 16).all()
        assert (boxes[:, 2:] - boxes[:, :2] == CELL).all()
        gaps |= set((boxes[1:, 0] - boxes[:-1, 2]).tolist())
        lengths.append(len(text))
        heights |= set(boxes[:, 1].tolist())
    assert gaps == set(range(GAPS[0], GAPS[1] + 1)), "touching and spaced"
    assert set(lengths) == set(range(1, MAX_DIGITS + 1))
    assert heights == set(range(16 - CELL + 1)), "jittered over the whole height"


def test_the_real_editions_have_the_counts_they_promise():
    assert digit_strings.COUNTS == {"train": 60_000, "test": 2_000}
    assert ALPHABET == "0123456789"


def test_another_canvas():
    strings = render(split_digits()["test"], 20, 32, 128, None, np.random.default_rng(0))
    assert strings.images.shape == (20, 32, 128) and strings.images.max() == 255


def test_digits_are_used_evenly():
    digits = split_digits()["test"]
    index = render(digits, 2_000, 16, 64, None, np.random.default_rng(0)).index
    counts = np.bincount(index[index >= 0], minlength=1797)[digits.index]
    assert counts.min() > 0.5 * counts.mean() and counts.max() < 1.6 * counts.mean()


def test_a_distortion_of_nothing_changes_nothing():
    digits = split_digits()["train"].images[:50].astype(np.float32) / 255
    np.testing.assert_allclose(
        distort(digits, STILL, np.random.default_rng(0)), undistorted(digits), atol=1e-5
    )


def test_each_digit_is_distorted_in_its_own_way():
    digit = np.repeat(split_digits()["train"].images[:1].astype(np.float32) / 255, 20, 0)
    changed = distort(digit, Distortion(gamma=0.2, noise=0.05), np.random.default_rng(0))
    assert changed.shape == (20, 12, 12) and changed.min() >= 0 and changed.max() <= 1
    assert len({image.tobytes() for image in changed}) == 20


def test_a_quarter_turn_turns():
    digit = split_digits()["train"].images[:1].astype(np.float32) / 255

    class Largest(np.random.Generator):
        def uniform(self, low, high, size):
            return np.full(size, high)

    turned = distort(digit, replace(STILL, rotation=90.0), Largest(np.random.PCG64()))
    np.testing.assert_allclose(turned[0], np.rot90(undistorted(digit)[0], -1), atol=1e-4)
