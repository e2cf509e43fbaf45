"""`vitjax.load(path)`: from a run or somebody's checkpoint to a model that can be used."""

from pathlib import Path

import jax
from jax.sharding import Mesh

from vitjax.data.preprocess import Preprocess
from vitjax.decoding.config import GenerationConfig
from vitjax.model import Model
from vitjax.models.config import CLASSIFIERS, image_encoder, reads_images
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.functional import Tree
from vitjax.parallel.paths import named_leaves
from vitjax.parallel.sharding import shardings
from vitjax.saved import is_saved, read_saved
from vitjax.training import checkpoints
from vitjax.training.config import Config, from_json
from vitjax.training.state import join
from vitjax.training.tasks import is_classifier
from vitjax.training.tokenizer_file import load_tokenizer
from vitjax.weights.checkpoint import Checkpoint, open_checkpoint, read_json
from vitjax.weights.generation import read_generation
from vitjax.weights.hub import local_path
from vitjax.weights.preprocessing import read_preprocessing
from vitjax.weights.tokenizer import read_tokenizer


def load(path: str | Path, *, mesh: Mesh | None = None) -> Model:
    """Read a model: a run of `vitjax train`, or a checkpoint of transformers, timm or big_vision.

    Of a run it is the newest good checkpoint, verified, with the averaged parameters if it kept any. Of a checkpoint
    every array must have its place in the model and the other way round; only safetensors and .npz are opened.

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
    _, expected, expected_stats = functional.abstract(lambda rngs: config.model.build(rngs=rngs))
    arrays, _ = checkpoints.restore(Path(path) / "checkpoints", only=("params", "frozen", "stats", "ema"))
    params = join(arrays.get("ema") or arrays["params"], arrays.get("frozen") or {})
    require_same_shapes(expected, params, str(path))
    stats = arrays.get("stats") or {}
    require_same_shapes(expected_stats, stats, str(path))
    place = (lambda tree: shardings(tree, mesh)) if mesh is not None else (lambda tree: None)
    return Model(
        config=config.model,
        params=jax.device_put(params, place(params)),
        stats=jax.device_put(stats, place(stats)),
        preprocess=Preprocess.of(config.data) if reads_images(config.model) else None,
        tokenizer=None if is_classifier(config) else load_tokenizer(path),
        generation=config.generation,
        mesh=mesh,
    )


def is_run(path: str | Path) -> bool:
    """Whether a directory is a run of `vitjax train`, if perhaps a damaged one."""
    config = Path(path) / "config.json"
    if (Path(path) / "checkpoints").is_dir():
        return True
    return config.is_file() and {"model", "train"} <= set(read_json(config))


def load_run_config(path: str | Path) -> Config:
    """`config.json` of a run; ValueError if the directory is not a run."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ValueError(f"{path} is not a run of vitjax train: it has no config.json")
    return from_json(file.read_text(encoding="utf-8", errors="replace"), where=str(file))


def require_same_shapes(expected: Tree, found: Tree, where: str) -> None:
    """Raise one line that names the first parameter whose shape or dtype is not the model's."""
    ours, theirs = named_leaves(expected), named_leaves(found)
    for name in sorted({*ours, *theirs}):
        if name not in theirs or name not in ours:
            raise ValueError(
                f"{where}: parameter {name} is {'missing' if name in ours else 'not in the model'}"
            )
        a, b = ours[name], theirs[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(f"{where}: {name} is {b.dtype}{b.shape}, the model has {a.dtype}{a.shape}")
