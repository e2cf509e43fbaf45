"""The real digits that studies learn from."""

import numpy as np

from vitjax.data.datasets.digits import split_digits
from vitjax.studies.training import Examples


def digit_examples() -> tuple[Examples, Examples]:
    """1,437 handwritten digits to learn from and 360 held out: pixels [N, 8, 8, 1] from -1 to 1, answers 0 to 9."""
    train, test = (
        Examples(digits.images[..., None].astype(np.float32) / 127.5 - 1, digits.labels)
        for digits in split_digits().values()
    )
    return train, test
