"""Preprocessing: sizes, cuts and normalisation, and its way through JSON."""

import json
from dataclasses import replace

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


@pytest.mark.parametrize("mode", ["none", "stretch", "crop", "fit", "thumbnail"])
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


def test_what_has_the_models_size_is_resized_and_cut_as_well():
    image = RNG.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    cut = Preprocess((28, 28), resize="stretch", resize_size=(32, 32))(image)
    assert np.array_equal(cut, Preprocess((32, 32))(image)[2:30, 2:30])


def test_the_middle_of_an_odd_number_lies_where_the_reference_has_it():
    image = np.arange(9, dtype=np.uint8)[None, :, None].repeat(5, axis=0)
    cut = {middle: Preprocess((5, 6), 1, resize="none", middle=middle)(image) for middle in ("even", "down")}
    assert (
        cut["even"][0, 0] == 2 and cut["down"][0, 0] == 1
    )  # 1.5: torchvision rounds to even, transformers down
    padded = {
        middle: Preprocess((5, 12), 1, resize="none", middle=middle)(image) for middle in ("even", "down")
    }
    assert padded["even"][0, 1] == 0 and padded["even"][0, 2] == 1 and padded["down"][0, 3] == 1


def test_one_rounding_is_nearer_than_two():
    image = RNG.integers(0, 256, (61, 47, 1), dtype=np.uint8)
    exact = np.asarray(
        Image.fromarray(image[..., 0].astype(np.float32)).resize((20, 30), Image.Resampling.BILINEAR)
    )
    once = Preprocess((30, 20), 1, round_once=True)(image)[..., 0]
    twice = Preprocess((30, 20), 1)(image)[..., 0]
    assert np.abs(once - exact).max() <= 0.5 < np.abs(twice - exact).max() <= 1


def test_patches_are_whole_and_their_number_is_bounded():
    sizes = set()
    for height in range(20, 700, 61):
        for width in range(20, 700, 61):
            out = Preprocess((64, 64), 1, resize="patches", patch_size=8, max_patches=64)._sizes(
                height, width
            )[0]
            assert out[0] % 8 == out[1] % 8 == 0 and out[0] * out[1] <= 64 * 64
            sizes.add(out)
    assert len(sizes) < 40  # each is a program of its own
    assert Preprocess((64, 64), 1, resize="patches", patch_size=8, max_patches=64).keeps_all


def test_what_lies_across_is_turned_clockwise():
    turned = Preprocess((100, 40), align_long_axis=True)
    assert np.array_equal(turned(WIDE), np.rot90(WIDE, -1))
    assert np.array_equal(Preprocess((40, 100), align_long_axis=True)(WIDE), WIDE)


def test_a_border_may_have_a_colour():
    fitted = Preprocess((4, 8), resize="fit", fill=(1, 2, 3))(np.full((4, 4, 3), 9, np.uint8))
    assert fitted[0, 0].tolist() == fitted[3, 7].tolist() == [1, 2, 3] and fitted[0, 2].tolist() == [9, 9, 9]


def test_a_hair_does_not_fill_the_memory():
    with pytest.raises(
        ValueError, match="an image of 1 x 30000 pixels is too narrow: it would grow to 256 x"
    ):
        Preprocess((224, 224), resize="crop", resize_size=(256, 256))(np.zeros((1, 30000, 3), np.uint8))


def test_another_size_cuts_the_same_share_away():
    crop = Preprocess((224, 224), resize="crop", resize_size=(256, 256), mean=(0.1,))
    larger = crop.at((448, 112))
    assert larger == Preprocess((448, 112), resize="crop", resize_size=(512, 128), mean=(0.1,))
    assert Preprocess((8, 8), resize="fit").at((4, 6)) == Preprocess((4, 6), resize="fit")
    assert Preprocess((8, 8), resize="patches", patch_size=4).at((8, 8)).resize == "stretch"


def test_a_config_squashes_to_the_fraction():
    config = DataConfig("digits", image_size=(28, 28), resize="squash", crop_fraction=0.875)
    assert Preprocess.of(config) == Preprocess((28, 28), resize="stretch", resize_size=(32, 32))
    assert Preprocess.of(replace(config, resize="stretch")) == Preprocess((28, 28))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"channels": 4}, "channels=4"),
        ({"mean": (0.5, 0.5)}, "mean="),
        ({"std": (0.5, 0.0, 0.5)}, "std="),
        ({"fill": ()}, "fill="),
        ({"resize_size": (0, 4)}, "smaller than 1"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(fields, told):
    with pytest.raises(ValueError, match=told) as caught:
        Preprocess((4, 4), **fields)
    assert "\n" not in str(caught.value)
