import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.analysis.test_attention_maps import CONFIG, RESNET, WRITER, build
from tests.decoding.test_generate import compilations
from tests.nn.trees import normal
from vitjax.analysis.attention_maps import attention_maps
from vitjax.analysis.occlusion import occlusion
from vitjax.model import Model


def falls(model: Model, images: np.ndarray, parts: list[tuple[slice, slice]], fill: Any, target: np.ndarray):
    """Each part cut out by hand: [B, parts]."""
    each = np.arange(len(images))
    found = []
    for rows, columns in parts:
        covered = np.array(images)
        covered[:, rows, columns] = fill
        found.append((model.logits(images) - model.logits(covered))[each, target])
    return np.stack(found, axis=1)


def test_patches_are_covered_one_at_a_time():
    model, images = build(CONFIG), np.asarray(normal(3, 8, 12, 3))
    parts = [(slice(row, row + 4), slice(column, column + 4)) for row in (0, 4) for column in (0, 4, 8)]
    said = np.asarray(model.logits(images)).argmax(axis=-1)
    found = occlusion(model, images)
    assert found.shape == attention_maps(model, images).relevance.shape
    want = falls(model, images, parts, 0.0, said)
    assert np.abs(want).max() > 0.05
    np.testing.assert_allclose(found.reshape(3, 6), want, rtol=1e-4, atol=1e-5)

    target, mean = np.array([4, 0, 2]), images.mean(axis=0)
    want = np.stack([falls(model, images, [part], mean[part], target)[:, 0] for part in parts], axis=1)
    found = occlusion(model, images, fill=mean, target=target)
    np.testing.assert_allclose(found.reshape(3, 6), want, rtol=1e-4, atol=1e-5)


def test_any_parts_of_any_classifier():
    model, images = build(RESNET), np.asarray(normal(2, 8, 12, 3))
    assert occlusion(model, images).shape == (2, *RESNET.grid((8, 12)))
    found = occlusion(model, images, grid=(1, 5), fill=-1.0, target=3)
    widths = [(slice(None), np.flatnonzero(np.arange(12) * 5 // 12 == part)) for part in range(5)]
    want = falls(model, images, widths, -1.0, np.array([3, 3]))
    np.testing.assert_allclose(found[:, 0], want, rtol=1e-4, atol=1e-5)
    with compilations() as compiled:
        occlusion(model, images, grid=(1, 5), fill=2.0, target=1)
    assert not compiled


def test_what_names_no_such_class_is_refused():
    images = np.zeros((2, 8, 12, 3), np.float32)
    with pytest.raises(ValueError, match="names no classes"):
        occlusion(build(WRITER), images)
    with pytest.raises(ValueError, match="no head"):
        occlusion(build(dataclasses.replace(CONFIG, num_classes=0)), images)
    with pytest.raises(ValueError, match="the classes are 0 to 4"):
        occlusion(build(CONFIG), images, target=[1, 5])
