"""Small editions of vitjax's datasets, and short runs on them."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pytest

from vitjax.data.datasets import digit_strings, reverse_words
from vitjax.data.sources import load_builder
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training import loop
from vitjax.training.config import Config, to_json
from vitjax.training.loop import Result

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


def with_data(config: Config, data_dir: str, **data: Any) -> Config:
    """The same run on data that lies in `data_dir`."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=data_dir, **data))


def write_recipe(directory: Path, config: Config) -> str:
    """A config file that returns `config`."""
    (directory / "recipe.json").write_text(to_json(config))
    recipe = directory / "recipe.py"
    recipe.write_text(
        "from pathlib import Path\n\n"
        "from vitjax.training.config import from_json\n\n\n"
        "def get_config():\n"
        "    return from_json(Path(__file__).with_suffix('.json').read_text(), where='recipe.json')\n"
    )
    return str(recipe)


def train_alone(config: Config, directory: Path) -> Result:
    """A run on one device, which compiles and runs faster than on all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda config: make_mesh(MeshConfig(), jax.devices()[:1]))
        return loop.fit(config, directory)
