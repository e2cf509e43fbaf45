"""Random transforms: from the Generator alone, within their bounds, in the right shape."""

import numpy as np
import pytest

from vitjax.data.config import Augment, DataConfig
from vitjax.data.preprocess import Preprocess
from vitjax.data.randaugment import OPERATIONS, rand_augment
from vitjax.data.transforms import augment_image, random_affine, random_resized_crop

RNG = np.random.default_rng(0)
EVERYTHING = Augment(
    crop="random_resized",
    flip=True,
    three_augment=True,
    color_jitter=0.3,
    rand_augment_layers=2,
    rotation=10.0,
    shear=0.1,
    scale=0.1,
    shift=1.0,
    intensity=0.2,
)


def augmented(image, augment, seed=0, **fields):
    config = DataConfig("x", image_size=(24, 32), channels=image.shape[-1], augment=augment, **fields)
    return augment_image(image, config, Preprocess.of(config), np.random.default_rng(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_at_once_depends_on_the_generator_alone(channels):
    image = RNG.integers(0, 256, (40, 50, channels), dtype=np.uint8)
    first, again, other = (augmented(image, EVERYTHING, seed) for seed in (1, 1, 2))
    assert first.shape == (24, 32, channels) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_no_augmentation_is_the_evaluation_preprocessing():
    image = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(augmented(image, Augment()), Preprocess((24, 32))(image))


def test_flip_mirrors_about_half():
    image = RNG.integers(0, 256, (24, 32, 1), dtype=np.uint8)
    flipped = [
        np.array_equal(augmented(image, Augment(flip=True), seed), image[:, ::-1]) for seed in range(200)
    ]
    assert 70 < sum(flipped) < 130


def test_affine_moves_a_dot_where_it_should():
    image = np.zeros((33, 33, 1), np.uint8)
    image[16, 26] = 255

    class Largest(np.random.Generator):
        """Every draw at its upper bound."""

        def uniform(self, low, high, size):
            return np.full(size, high)

    def dot(**bounds):
        moved = random_affine(image, Augment(**bounds), 0, Largest(np.random.PCG64()))
        return np.unravel_index(moved[..., 0].argmax(), (33, 33))

    assert dot(rotation=90.0) == (26, 16)  # a quarter turn clockwise on the screen
    assert dot(shift=3.0) == (19, 29)
    assert dot(scale=0.3) == (16, 29)


def test_affine_uncovers_the_fill():
    image = np.full((16, 16, 3), 50, np.uint8)
    moved = random_affine(image, Augment(shift=8.0), 200, np.random.default_rng(3))
    assert set(np.unique(moved)) >= {50, 200}


@pytest.mark.parametrize("shape", [(40, 40, 3), (5, 200, 1), (200, 5, 3), (1, 1, 1)])
def test_a_random_crop_has_the_size_asked_for(shape):
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    for seed in range(20):
        out = random_resized_crop(image, (16, 24), (0.08, 1.0), "bilinear", np.random.default_rng(seed))
        assert out.shape == (16, 24, shape[2])


def test_a_random_crop_keeps_the_share_of_area_it_was_told_to():
    rows = np.repeat(np.arange(200, dtype=np.uint8)[:, None, None], 200, 1)
    for seed in range(50):
        out = random_resized_crop(rows, (64, 64), (0.25, 0.25), "bilinear", np.random.default_rng(seed))
        height = (int(out.max()) - int(out.min())) / 200
        assert 0.5 * np.sqrt(3 / 4) - 0.03 < height < 0.5 * np.sqrt(4 / 3) + 0.03


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_operation_keeps_size_and_mode_at_every_level(operation, mode):
    from PIL import Image

    picture = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).convert(mode)
    for level in (0.0, 0.5, 1.0):
        for sign in (-1.0, 1.0):
            out = operation(picture, level, sign, 128)
            assert out.size == picture.size and out.mode == mode
    if operation.__name__ not in ("_auto_contrast", "_equalize"):
        assert np.array_equal(np.asarray(operation(picture, 0.0, 1.0, 128)), np.asarray(picture))


def test_randaugment_has_the_papers_fourteen_and_does_more_at_more():
    assert len(OPERATIONS) == 14
    image = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def change(layers, magnitude):
        outs = [
            rand_augment(image, layers, magnitude, 128, np.random.default_rng(seed)) for seed in range(40)
        ]
        return np.mean([np.abs(out.astype(int) - image).mean() for out in outs])

    assert change(0, 9.0) == 0 < change(2, 1.0) < change(2, 9.0)
