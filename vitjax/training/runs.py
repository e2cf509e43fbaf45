"""A run's directory, read: its config, and the parameters of its newest good checkpoint."""

from pathlib import Path

from jax.sharding import Mesh

from vitjax.training import checkpoints
from vitjax.training.config import Config, from_json
from vitjax.training.saved_folder import Arrays
from vitjax.training.state import merged, parameter_shapes
from vitjax.weights.checkpoint import read_json


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


def read_run(path: str | Path, mesh: Mesh | None) -> Arrays:
    """The parameters to use a run's model with: averaged if it kept an average, LoRA's factors merged.

    Every process reads its own slices of the arrays, straight to their places on the mesh (None: one device).

    Raises:
      ValueError: the directory is no run, or its checkpoint is of another config than its config.json.
      FileNotFoundError: it has no good checkpoint.
    """
    config = load_run_config(path)
    kept = "ema" if config.train.ema_decay else "params"
    trained, frozen, stats = parameter_shapes(config, mesh)
    directory = Path(path) / "checkpoints"
    target = {kept: trained, "frozen": frozen, "stats": stats}
    arrays, metadata = checkpoints.restore(directory, target, only=tuple(target))
    params = merged(config, arrays[kept], arrays["frozen"])
    return Arrays(params, arrays["stats"], metadata["step"])
