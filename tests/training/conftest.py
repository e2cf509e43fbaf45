import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prepared import small_datasets
from tests.training.states import make_state
from vitjax.training.checkpoints import Checkpointer


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with small_datasets(tmp_path_factory.mktemp("datasets")) as folder:
        yield folder


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    directory = tmp_path_factory.mktemp("template")
    with Checkpointer(directory, keep=3) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, make_state(step), {"data": {"name": "digits", "seed": step}})
    return directory


@pytest.fixture
def saved(template, tmp_path):
    """Steps 1, 2 and 3 of different states."""
    return Path(shutil.copytree(template, tmp_path / "run"))
