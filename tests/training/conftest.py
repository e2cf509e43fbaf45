from collections.abc import Iterator

import pytest

from tests.prepared import small_datasets


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with small_datasets(tmp_path_factory.mktemp("datasets")) as folder:
        yield folder
