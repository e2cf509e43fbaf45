"""`vitjax.load(path)`: from a run or somebody's checkpoint to a model that can be used."""

from pathlib import Path

from jax.sharding import Mesh

from vitjax.model import Model
from vitjax.training.reading import describe, read, tokenizer_of


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
    source = describe(path)
    arrays = read(source, mesh)
    return Model(
        config=source.model,
        params=arrays.params,
        stats=arrays.stats,
        preprocess=source.preprocess,
        tokenizer=tokenizer_of(source),
        generation=source.generation,
        mesh=mesh,
        family=source.family,
        labels=source.labels,
    )
