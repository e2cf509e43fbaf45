"""Small editions of vitjax's datasets, prepared once a test process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from vitjax.data.datasets import OWN, digit_strings, reverse_words, text_lines
from vitjax.data.sources import load_builder

SMALL = {digit_strings: (900, 60), text_lines: (60, 40), reverse_words: (300, 50)}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """All of vitjax's datasets, with the counts of SMALL."""
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        for module, (train, test) in SMALL.items():
            patch.setattr(module, "COUNTS", {"train": train, "test": test})
        for name in OWN:
            load_builder(name, str(folder))
    yield str(folder)


@pytest.fixture
def empty_dir(tmp_path: Path) -> str:
    """A place where nothing is prepared."""
    return str(tmp_path / "datasets")
