"""The real digits that studies learn from, and the Vision Transformer that reads them."""

from typing import Any

import numpy as np

from vitjax.data.datasets.digits import split_digits
from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.studies.lab.training import Examples


def digit_examples() -> tuple[Examples, Examples]:
    """1,437 handwritten digits to learn from and 360 held out: pixels [N, 8, 8, 1] from -1 to 1, answers 0 to 9."""
    train, test = (
        Examples(digits.images[..., None].astype(np.float32) / 127.5 - 1, digits.labels)
        for digits in split_digits().values()
    )
    return train, test


def digit_vit(transformer: TransformerConfig, **options: Any) -> VisionTransformerConfig:
    """Reads a digit in 16 patches of 2 x 2 pixels; other options of its config may be changed."""
    return VisionTransformerConfig(transformer, (8, 8), (2, 2), channels=1, num_classes=10, **options)
