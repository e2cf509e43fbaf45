"""Preprocessing: sizes, cuts and normalisation, and its way through JSON."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from vitjax.data.config import DataConfig
from vitjax.data.preprocess import Preprocess, normalize
from vitjax.data.resize import to_channels

RNG = np.random.default_rng(0)
WIDE = RNG.integers(0, 256, (40, 100, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_passes_untouched():
    assert Preprocess((40, 100))(WIDE) is WIDE


def test_stretch_is_pillows_resize():
    expected = np.asarray(Image.fromarray(WIDE).resize((30, 20), Image.Resampling.BICUBIC))
    assert np.array_equal(Preprocess((20, 30), interpolation="bicubic")(WIDE), expected)


def test_crop_resizes_the_short_side_and_cuts_the_middle_as_timm_does():
    # timm: resize the short side to floor(28 / 0.875) = 32, so 32 x 80, then cut the middle 28 x 28.
    resized = np.asarray(Image.fromarray(WIDE).resize((80, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(
        Preprocess((28, 28), resize="crop", resize_size=(32, 32))(WIDE), resized[2:30, 26:54]
    )


def test_fit_keeps_the_aspect_and_pads_with_the_fill():
    image = np.full((10, 10, 1), 200, np.uint8)
    fitted = Preprocess((16, 64), channels=1, resize="fit", fill=(7,))(image)
    assert fitted.shape == (16, 64, 1)
    assert (fitted[:, 24:40] == 200).all() and (fitted[:, :24] == 7).all() and (fitted[:, 40:] == 7).all()


@pytest.mark.parametrize("mode", ["stretch", "crop", "fit"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 200, 3), (200, 3, 1), (37, 41, 3)])
def test_any_shape_comes_out_at_the_size_asked_for(mode, shape):
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    out = Preprocess((17, 23), resize=mode)(image)
    assert out.shape == (17, 23, 3) and out.dtype == np.uint8


def test_channels_follow_rec_601():
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert (to_channels(red, 1) == 76).all()
    assert (to_channels(np.full((2, 2, 1), 9, np.uint8), 3) == 9).all()


def test_normalize_is_a_jax_function_of_uint8():
    preprocess = Preprocess((2, 2), mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    images = RNG.integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
    out = jax.jit(preprocess.normalize)(images)
    expected = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.5, 0.25, 0.2])
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(normalize(images, preprocess.mean, preprocess.std), expected, atol=1e-6)


def test_it_is_what_the_config_says_and_travels_as_json():
    config = DataConfig("digits", image_size=(8, 8), channels=1, mean=(0.1,), resize="fit", fill=3)
    preprocess = Preprocess.of(config)
    assert (preprocess.image_size, preprocess.mean, preprocess.fill) == ((8, 8), (0.1,), (3,))
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    with pytest.raises(ValueError, match="unknown field 'size'"):
        Preprocess.from_dict({"size": 3})
