from functools import partial

import jax
import numpy as np
import pytest

from vitjax.models.resnet import ResNetConfig
from vitjax.studies.lab.training import Examples, Loop, trained

CONFIG = ResNetConfig((1,), (4,), stem="small", channels=1, num_classes=3)


def test_a_loop_trains_as_a_scan_does():
    rng = np.random.default_rng(0)
    examples = Examples(rng.normal(size=(64, 6, 6, 1)).astype(np.float32), rng.integers(0, 3, 64))
    options = dict(steps=12, rate=1e-2, batch=16, num_examples=40)
    side_by_side = trained(CONFIG, examples, (3, 5), **options)
    loop = Loop(CONFIG)
    alone = [loop.trained(loop.fresh(seed), examples, seed=seed, **options) for seed in (3, 5)]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    close = partial(np.testing.assert_allclose, atol=2e-5)
    jax.tree.map(close, together, (side_by_side.params, side_by_side.stats))
    accuracies = [loop.accuracy(model, examples) for model in alone]
    assert accuracies == pytest.approx(side_by_side.accuracy(examples).values)
