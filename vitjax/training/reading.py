"""Models in files, whoever wrote them: what a path says of its model, and its arrays.

A path is a run of `vitjax train`, a folder that `vitjax.save` wrote, or a checkpoint of transformers, timm or
big_vision, which a hub id can stand for.
"""

import hashlib
from pathlib import Path

from jax.sharding import Mesh

from vitjax.data.preprocess import Preprocess
from vitjax.data.tokenizers import Tokenizer
from vitjax.decoding.config import GenerationConfig
from vitjax.models.config import CLASSIFIERS, image_encoder, reads_images
from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.training.pretrained import Pretrained
from vitjax.training.runs import is_run, load_run_config, read_run
from vitjax.training.saved_folder import Arrays, is_saved, read_arrays, read_config
from vitjax.training.seal import SEAL
from vitjax.training.step_directories import step_place
from vitjax.training.tokenizer_file import load_tokenizer
from vitjax.weights.checkpoint import Checkpoint, open_checkpoint
from vitjax.weights.folder import open_tensors
from vitjax.weights.generation import read_generation
from vitjax.weights.hub import local_path
from vitjax.weights.labels import read_labels
from vitjax.weights.preprocessing import read_preprocessing
from vitjax.weights.tokenizer import read_tokenizer


def describe(path: str | Path) -> Pretrained:
    """What the model at `path`, or of this hub id, says of itself; no array is read.

    Raises:
      ValueError: one line: it holds no model that vitjax knows, or its files do not fit together.
      FileNotFoundError: there is nothing at the path.
    """
    folder = local_path(path)
    if is_saved(folder):
        saved = read_config(folder)
        return Pretrained(
            path=str(path),
            folder=str(folder),
            model=saved.model,
            preprocess=saved.preprocess,
            generation=saved.generation,
            family=saved.family,
            labels=saved.labels,
        )
    if is_run(folder):
        run = load_run_config(folder)
        preprocess = Preprocess.of(run.data) if reads_images(run.model) else None
        return Pretrained(str(path), str(folder), run.model, preprocess, run.generation)
    checkpoint = open_checkpoint(folder)
    writes = not isinstance(checkpoint.config, CLASSIFIERS)
    return Pretrained(
        path=str(path),
        folder=str(folder),
        model=checkpoint.config,
        preprocess=_preprocessing(checkpoint),
        generation=read_generation(folder) if writes else GenerationConfig(),
        family=checkpoint.family.name,
        labels=read_labels(checkpoint.fields, checkpoint.config),
    )


def read(pretrained: Pretrained, mesh: Mesh | None) -> Arrays:
    """The arrays of what was described, or of the part of it: each process reads its own slices.

    Args:
      mesh: where they go, by the rules of `vitjax.parallel.sharding`; None is one device.

    Raises:
      ValueError, FileNotFoundError: the arrays are not those of the model, or damaged, or none are there.
    """
    folder = Path(pretrained.folder)
    if is_saved(folder):
        arrays = read_arrays(folder, mesh)
    elif is_run(folder):
        arrays = read_run(folder, mesh)
    else:
        arrays = Arrays(*open_checkpoint(folder).read(mesh), None)
    if not pretrained.part:
        return arrays
    params, stats, step = arrays
    return Arrays(params[pretrained.part], stats.get(pretrained.part, {}), step)


def tokenizer_of(pretrained: Pretrained) -> Tokenizer | None:
    """The tokenizer it reads and writes with; None if it names classes, or has none in its folder."""
    folder = Path(pretrained.folder)
    if is_saved(folder):
        return load_tokenizer(folder) if read_config(folder).has_tokenizer else None
    if isinstance(pretrained.model, CLASSIFIERS):
        return None
    return load_tokenizer(folder) if is_run(folder) else read_tokenizer(folder)


def fingerprint(pretrained: Pretrained, step: int | None) -> str:
    """16 hexadecimal digits of the bytes that hold its arrays.

    Args:
      step: as `read` gave it. A sealed step is known by its seal; of other files every byte is read.
    """
    folder = Path(pretrained.folder)
    digest = hashlib.sha256()
    if step is not None:
        digest.update((step_place(folder / "checkpoints", step) / SEAL).read_bytes())
        return digest.hexdigest()[:16]
    for name in sorted({spec.file for spec in open_tensors(folder).specs.values()}):
        with open(name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _preprocessing(checkpoint: Checkpoint) -> Preprocess | None:
    """What lies beside the weights; beside an .npz nothing does: big_vision stretches, bilinearly, to -1..1."""
    if not reads_images(checkpoint.config):
        return None
    encoder = image_encoder(checkpoint.config)
    if checkpoint.family.format == "npz" and isinstance(encoder, VisionTransformerConfig):
        return Preprocess(encoder.image_size, encoder.channels)
    preprocess = read_preprocessing(checkpoint.path)
    if preprocess is not None and preprocess.channels != encoder.channels:
        raise ValueError(
            f"{checkpoint.path}: its preprocessing makes images of {preprocess.channels} channels, its model reads "
            f"{encoder.channels}: expected one number in both"
        )
    return preprocess
