"""`vitjax.save`: models into vitjax's own folders (`vitjax.training.saved_folder`), and those of other libraries."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vitjax.data.preprocess import Preprocess
from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.model import Model
from vitjax.parallel.paths import named_leaves
from vitjax.training import checkpoints
from vitjax.training.saved_folder import SavedConfig, write_config
from vitjax.training.tokenizer_file import save_tokenizer
from vitjax.weights.folder import write_tensors
from vitjax.weights.generation import TOKEN_IDS, write_generation
from vitjax.weights.labels import label_fields
from vitjax.weights.npz_file import write_npz
from vitjax.weights.preprocessing import timm_fields, write_preprocessing
from vitjax.weights.translation import translate

SavedFormat = Literal["safetensors", "orbax", "hf", "timm", "npz"]


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
    _write_json(directory / "config.json", {**fields, **label_fields(model.labels, format), **more})
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
        1,
        model.config,
        model.preprocess,
        model.generation,
        model.tokenizer is not None,
        model.family,
        model.labels,
    )
    write_config(directory, config)
