"""`vitjax.load(path)`: from a run or somebody's checkpoint to a model that can be used."""

from pathlib import Path

from jax.sharding import Mesh

from vitjax.data.preprocess import Preprocess
from vitjax.decoding.config import GenerationConfig
from vitjax.model import Model
from vitjax.models.config import CLASSIFIERS, image_encoder, reads_images
from vitjax.models.vit import VisionTransformerConfig
from vitjax.saved import is_saved, read_saved
from vitjax.training.runs import is_run, load_run_config, read_parameters
from vitjax.training.tasks import is_classifier
from vitjax.training.tokenizer_file import load_tokenizer
from vitjax.weights.checkpoint import Checkpoint, open_checkpoint
from vitjax.weights.generation import read_generation
from vitjax.weights.hub import local_path
from vitjax.weights.preprocessing import read_preprocessing
from vitjax.weights.tokenizer import read_tokenizer


def load(path: str | Path, *, mesh: Mesh | None = None) -> Model:
    """Read a model: a run of `vitjax train`, or a checkpoint of transformers, timm or big_vision.

    Of a run it is the newest good checkpoint, verified, with the averaged parameters if it kept any and LoRA's factors
    merged. Of a checkpoint every array must have its place in the model and the other way round; only safetensors and
    .npz are opened.

    Args:
      path: a directory, one .npz, or the id of a repository on the Hugging Face hub (`vitjax.weights.hub`).
      mesh: devices to spread the parameters over, by the rules of `vitjax.parallel.sharding`, and to generate on; None
        is one device.

    Raises:
      ValueError: the directory holds no model that vitjax knows, or its files do not fit together.
      FileNotFoundError: there is nothing at the path, or the run has no good checkpoint.
    """
    path = local_path(path)
    if is_saved(path):
        return read_saved(path, mesh)
    if is_run(path):
        return _load_run(path, mesh)
    checkpoint = open_checkpoint(path)
    params, stats = checkpoint.read(mesh)
    writes = not isinstance(checkpoint.config, CLASSIFIERS)
    return Model(
        config=checkpoint.config,
        params=params,
        stats=stats,
        preprocess=_preprocessing(checkpoint),
        tokenizer=read_tokenizer(checkpoint.path) if writes else None,
        generation=read_generation(checkpoint.path) if writes else GenerationConfig(),
        mesh=mesh,
        family=checkpoint.family.name,
    )


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


def _load_run(path: str | Path, mesh: Mesh | None) -> Model:
    config = load_run_config(path)
    params, stats, _ = read_parameters(path, mesh)
    return Model(
        config=config.model,
        params=params,
        stats=stats,
        preprocess=Preprocess.of(config.data) if reads_images(config.model) else None,
        tokenizer=None if is_classifier(config) else load_tokenizer(path),
        generation=config.generation,
        mesh=mesh,
    )
