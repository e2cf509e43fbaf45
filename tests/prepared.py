"""Small editions of vitjax's datasets, and short runs on them."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from vitjax.data.datasets import digit_strings, reverse_words
from vitjax.data.sources import load_builder
from vitjax.data.tokenizers import Tokenizer
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training import loop
from vitjax.training.checkpoints import Checkpointer
from vitjax.training.config import Config, to_json
from vitjax.training.loop import Result
from vitjax.training.state import make_setup
from vitjax.training.tokenizer_file import save_tokenizer

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


def write_run(config: Config, directory: Path, tokenizer: Tokenizer | None = None) -> Path:
    """A run's directory as training leaves it, every array at random; nothing is compiled."""
    shapes = make_setup(config, make_mesh(MeshConfig(), jax.devices()[:1])).shapes
    rng = np.random.default_rng(0)

    def array(leaf: jax.ShapeDtypeStruct) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype)

    directory.mkdir(parents=True, exist_ok=True)
    with Checkpointer(directory / "checkpoints") as writer:
        data = {"dataset": config.data.name, "split": config.data.train_split, "examples": 0}
        writer.save(1, jax.tree.map(array, shapes), {"data": data})
    (directory / "config.json").write_text(to_json(config))
    if tokenizer is not None:
        save_tokenizer(directory, tokenizer)
    return directory
