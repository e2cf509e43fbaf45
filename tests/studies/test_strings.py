from functools import partial

import jax
import numpy as np

from vitjax.decoding.config import GenerationConfig
from vitjax.model import Model
from vitjax.nn.blocks import TransformerConfig
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.strings import (
    BLACK,
    StringReader,
    prompted,
    string_transformer,
    strings,
)
from vitjax.studies.lab.training import Build, trained, unstacked

TRANSFORMER = TransformerConfig(8, 1, 2, 12)
CONFIG = string_transformer(TRANSFORMER, TRANSFORMER)


def test_digits_lie_in_their_boxes():
    digits = digit_examples()[0]
    some = strings(digits, 5, np.random.default_rng(0))
    assert (some.images.swapaxes(1, 2)[~some.boxes.any(axis=1)] == BLACK).all()
    for image, wanted, boxes in zip(some.images, some.digits, some.boxes, strict=True):
        for digit, box in zip(wanted, boxes, strict=True):
            same = (digits.inputs == image[:, box]).all(axis=(1, 2, 3))
            assert digit in digits.answers[same]


def test_a_string_reader_is_its_model_teacher_forced():
    some = strings(digit_examples()[0], 40, np.random.default_rng(0))
    learnt = trained(Build(partial(StringReader, CONFIG)), some.examples, (0, 1), steps=4, batch=8, stages=2)
    assert all(len(leaf) == 2 and leaf.shape[1] == 2 for leaf in jax.tree.leaves(learnt.params))
    whole = trained(Build(partial(StringReader, CONFIG)), some.examples, (0, 1), steps=4, batch=8)
    last = jax.tree.map(lambda leaf: leaf[:, -1], learnt.params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), last, whole.params)

    model = Model(CONFIG, unstacked(last)[1]["model"], {}, None, None, GenerationConfig())
    logits = model.logits(some.images, prompted(some.digits)[:, :-1])
    right = (np.asarray(logits).argmax(-1) == some.digits).mean()
    np.testing.assert_allclose(whole.accuracy(some.examples).values[1], right, atol=1e-6)
