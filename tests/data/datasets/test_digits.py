"""The digits: counts, and no test image in training."""

import numpy as np
from sklearn.datasets import load_digits

from vitjax.data.config import DataConfig
from vitjax.data.datasets.digits import split_digits
from vitjax.data.sources import build_source

FIRST_TEST_DIGITS = [1496, 188, 705, 820, 413, 744, 1466, 500]
SUM_OF_TEST_DIGITS = 337944


def test_the_split_is_whole_stratified_and_always_the_same():
    splits = split_digits()
    train, test = splits["train"], splits["test"]
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert sorted([*train.index, *test.index]) == list(range(1797))
    assert np.bincount(test.labels).min() >= 34
    # A new scikit-learn that splits differently would leak yesterday's test digits into today's training.
    assert test.index[:8].tolist() == FIRST_TEST_DIGITS and int(test.index.sum()) == SUM_OF_TEST_DIGITS


def test_no_test_image_is_among_the_training_images():
    splits = split_digits()
    train = {image.tobytes() for image in splits["train"].images}
    assert not any(image.tobytes() in train for image in splits["test"].images)


def test_what_is_read_is_what_scikit_learn_ships(data_dir):
    shipped = load_digits()
    seen = []
    for split, count in (("train", 1437), ("test", 360)):
        source = build_source(DataConfig("digits", data_dir=data_dir), split)
        assert len(source) == source.info.examples == count
        assert source.info.num_classes == 10 and source.info.dataset == "digits/1.0.0"
        for example in (source[place] for place in range(count)):
            place = example["index"]
            seen.append(place)
            assert example["label"] == shipped.target[place]
            assert np.array_equal(np.rint(example["image"][..., 0] * (16 / 255)), shipped.images[place])
    assert sorted(seen) == list(range(1797))
