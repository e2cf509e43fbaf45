"""Small editions of vitjax's datasets for tests that train."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vitjax.data.datasets import digit_strings, reverse_words
from vitjax.data.sources import load_builder

COUNTS = {digit_strings: {"train": 300, "test": 40}, reverse_words: {"train": 200, "test": 40}}


@contextmanager
def small_datasets(folder: Path) -> Iterator[str]:
    """Digits as they are, few digit strings and words, in a directory of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for module, counts in COUNTS.items():
            patch.setattr(module, "COUNTS", counts)
        for name in ("digits", "digit_strings", "reverse_words"):
            load_builder(name, str(folder))
    yield str(folder)
