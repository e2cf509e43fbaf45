"""Models in files: vitjax's own folders, and those of transformers, timm and big_vision.

A folder of ours is `config.json` (model, preprocessing, generation), the tokenizer, and the arrays in
`model.safetensors` or sealed Orbax checkpoints, which a mesh reads in parallel.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
from jax.sharding import Mesh
from pydantic import Field, TypeAdapter

from vitjax.data.preprocess import Preprocess
from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.decoding.config import GenerationConfig
from vitjax.model import Model
from vitjax.models.config import ModelConfig
from vitjax.nn import functional
from vitjax.nn.functional import Tree
from vitjax.parallel.paths import named_leaves
from vitjax.parallel.sharding import shardings
from vitjax.training import checkpoints
from vitjax.training.config import parse
from vitjax.training.tokenizer_file import load_tokenizer, save_tokenizer
from vitjax.weights.checkpoint import read_json
from vitjax.weights.folder import open_tensors, write_tensors
from vitjax.weights.generation import TOKEN_IDS, write_generation
from vitjax.weights.npz_file import write_npz
from vitjax.weights.preprocessing import timm_fields, write_preprocessing
from vitjax.weights.table import Entry, Table
from vitjax.weights.translation import translate

SavedFormat = Literal["safetensors", "orbax", "hf", "timm", "npz"]


@dataclass(frozen=True)
class SavedConfig:
    """`config.json` of a folder of ours.

    Attributes:
      vitjax: version of the format.
      family: the family the model was first read as.
    """

    vitjax: Literal[1]
    model: Annotated[ModelConfig, Field(discriminator="kind")]
    preprocess: Preprocess | None
    generation: GenerationConfig
    has_tokenizer: bool
    family: str | None


_ADAPTER = TypeAdapter(SavedConfig)


def save(model: Model, directory: str | Path, *, format: SavedFormat = "safetensors") -> tuple[str, ...]:
    """Write a model with all that travels with it.

    Args:
      directory: new or empty.
      format: `safetensors` and `orbax` are read by vitjax alone and hold any model; `hf` (transformers), `timm` and
        `npz` (big_vision) hold what those libraries have.

    Returns:
      A line for everything that the format cannot hold, or not quite: mostly none.

    Raises:
      ValueError: the directory holds something, or the format has no such model.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is there already: expected a new or an empty directory to save to")
    if format == "safetensors" or format == "orbax":
        _save_own(model, directory, format)
        return ()
    family, fields, arrays = translate(model.config, model.params, model.stats, format, prefer=model.family)
    generation = write_generation(model.generation) if model.writes else {}
    directory.mkdir(parents=True, exist_ok=True)
    if format == "npz":
        write_npz(directory / "model.npz", arrays)
        return ("an .npz holds arrays alone: preprocessing is left out",) if model.preprocess else ()
    write_tensors(directory, arrays, {"format": "pt"})
    more, notes = _preprocessing(model.preprocess, directory, format)
    if model.tokenizer is not None:
        model.tokenizer.save(directory)
        if isinstance(model.tokenizer, CharacterTokenizer):
            notes += ("tokenizer.json holds an alphabet, which only vitjax reads",)
    if model.writes:
        _write_json(directory / "generation_config.json", generation)
        more |= {name: generation[name] for name in TOKEN_IDS if name in generation}
    _write_json(directory / "config.json", {**fields, **more})
    return notes


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _preprocessing(
    preprocess: Preprocess | None, directory: Path, format: Literal["hf", "timm"]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What config.json says of preprocessing, and what cannot be said; transformers has a file of its own for it."""
    if preprocess is None:
        return {}, ()
    try:
        if format == "hf":
            return {}, write_preprocessing(preprocess, directory)
        fields, notes = timm_fields(preprocess)
        return {"pretrained_cfg": fields}, notes
    except ValueError as error:
        return {}, (f"preprocessing is left out: {error}",)


def _save_own(model: Model, directory: Path, format: Literal["safetensors", "orbax"]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {"params": model.params, "stats": model.stats}
    if format == "orbax":
        with checkpoints.Checkpointer(directory / "checkpoints") as writer:
            writer.save(0, arrays)
    else:
        write_tensors(directory, named_leaves(arrays))
    if model.tokenizer is not None:
        save_tokenizer(directory, model.tokenizer)
    config = SavedConfig(
        1, model.config, model.preprocess, model.generation, model.tokenizer is not None, model.family
    )
    (directory / "config.json").write_bytes(_ADAPTER.dump_json(config, indent=2) + b"\n")


def is_saved(path: Path) -> bool:
    """Whether a path is a folder of ours."""
    return (path / "config.json").is_file() and "vitjax" in read_json(path / "config.json")


def read_config(directory: Path) -> SavedConfig:
    """`config.json` of a folder of ours; ValueError if it is not as it was written."""
    file = directory / "config.json"
    return parse(_ADAPTER, file.read_text(encoding="utf-8"), str(file))


def read_saved(directory: Path, mesh: Mesh | None = None) -> Model:
    """A model out of a folder of ours; arguments and errors as in `vitjax.load`."""
    config = read_config(directory)
    _, params, stats = functional.abstract(lambda rngs: config.model.build(rngs=rngs))
    arrays = _read_arrays(directory, {"params": params, "stats": stats}, mesh)
    return Model(
        config=config.model,
        params=arrays["params"],
        stats=arrays["stats"],
        preprocess=config.preprocess,
        tokenizer=load_tokenizer(directory) if config.has_tokenizer else None,
        generation=config.generation,
        family=config.family,
        mesh=mesh,
    )


def _read_arrays(directory: Path, expected: Tree, mesh: Mesh | None) -> Tree:
    if (directory / "checkpoints").is_dir():
        if mesh is not None:
            expected = jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                expected,
                shardings(expected, mesh),
            )
        return checkpoints.restore(directory / "checkpoints", expected)[0]
    tensors, named = open_tensors(directory), named_leaves(expected)
    table = Table([Entry(path, path) for path in named], named)
    table.check(tensors.specs, (), str(directory))
    return table.read(tensors, expected, mesh)
