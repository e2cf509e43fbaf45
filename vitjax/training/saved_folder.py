"""vitjax's own model folders, read: what `vitjax.save` wrote in a format of ours.

A folder is `config.json` (model, preprocessing, generation), the tokenizer, and the arrays in `model.safetensors` or
sealed Orbax checkpoints, which a mesh reads in parallel.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
from jax.sharding import Mesh
from pydantic import Field, TypeAdapter

from vitjax.data.preprocess import Preprocess
from vitjax.decoding.config import GenerationConfig
from vitjax.models.config import ModelConfig
from vitjax.nn import functional
from vitjax.nn.functional import Tree
from vitjax.parallel.paths import named_leaves
from vitjax.parallel.sharding import shardings
from vitjax.training import checkpoints
from vitjax.training.config import parse
from vitjax.weights.checkpoint import read_json
from vitjax.weights.folder import open_tensors
from vitjax.weights.table import Entry, Table


@dataclass(frozen=True)
class SavedConfig:
    """`config.json` of a folder of ours.

    Attributes:
      vitjax: version of the format.
      family, labels: see `vitjax.Model`.
    """

    vitjax: Literal[1]
    model: Annotated[ModelConfig, Field(discriminator="kind")]
    preprocess: Preprocess | None
    generation: GenerationConfig
    has_tokenizer: bool
    family: str | None
    labels: tuple[str, ...] | None


_ADAPTER = TypeAdapter(SavedConfig)


def write_config(directory: Path, config: SavedConfig) -> None:
    """Make a directory a folder of ours."""
    (directory / "config.json").write_bytes(_ADAPTER.dump_json(config, indent=2) + b"\n")


def is_saved(path: Path) -> bool:
    """Whether a path is a folder of ours."""
    return (path / "config.json").is_file() and "vitjax" in read_json(path / "config.json")


def read_config(directory: Path) -> SavedConfig:
    """`config.json` of a folder of ours; ValueError if it is not as it was written."""
    file = directory / "config.json"
    return parse(_ADAPTER, file.read_text(encoding="utf-8"), str(file))


class Arrays(NamedTuple):
    """A model's arrays, and the step of the sealed checkpoint they were in; None for other files."""

    params: Tree
    stats: Tree
    step: int | None


def read_arrays(directory: Path, mesh: Mesh | None) -> Arrays:
    """The arrays of a folder of ours, each process its own slices, straight to their places (None: one device)."""
    model = read_config(directory).model
    _, params, stats = functional.abstract(lambda rngs: model.build(rngs=rngs))
    expected = {"params": params, "stats": stats}
    if (directory / "checkpoints").is_dir():
        if mesh is not None:
            expected = jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                expected,
                shardings(expected, mesh),
            )
        arrays, metadata = checkpoints.restore(directory / "checkpoints", expected)
        return Arrays(arrays["params"], arrays["stats"], metadata["step"])
    tensors, named = open_tensors(directory), named_leaves(expected)
    table = Table([Entry(path, path) for path in named], named)
    table.check(tensors.specs, (), str(directory))
    arrays = table.read(tensors, expected, mesh)
    return Arrays(arrays["params"], arrays["stats"], None)
