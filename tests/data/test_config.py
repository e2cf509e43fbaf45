"""Configs refuse what would only fail later, in one line."""

import pytest

from vitjax.data.config import Augment, DataConfig


@pytest.mark.parametrize(
    "fields",
    [
        {"channels": 4},
        {"image_size": (0, 8)},
        {"mean": (0.5, 0.5)},
        {"std": (0.0,)},
        {"crop_fraction": 0.0},
        {"fill": 256},
        {"max_length": 2},
        {"workers": -1},
        {"curriculum_steps": -1},
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line(fields):
    with pytest.raises(ValueError, match=next(iter(fields))) as caught:
        DataConfig("digits", **fields)
    assert "expected" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [{"crop_area": (0.5, 0.2)}, {"crop_area": (0.0, 1.0)}, {"rand_augment_magnitude": 11.0}, {"scale": 1.0}],
)
def test_an_augmentation_out_of_range_is_refused_in_one_line(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Augment(**fields)


def test_the_defaults_change_nothing_at_random():
    assert DataConfig("digits").augment == Augment()
    assert Augment().crop == "none" and not any(
        value
        for name, value in vars(Augment()).items()
        if not name.startswith(("crop", "rand_augment_magnitude"))
    )
