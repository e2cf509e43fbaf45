"""A run's directory, read: its config, and the parameters of its newest good checkpoint."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from vitjax.nn.functional import Tree
from vitjax.training import checkpoints
from vitjax.training.config import Config, from_json
from vitjax.training.seal import SEAL
from vitjax.training.state import merged, parameter_shapes
from vitjax.training.step_directories import step_place
from vitjax.weights.checkpoint import read_json


class RunParameters(NamedTuple):
    """`params` and `stats` as the model is built with them, and 16 hexadecimal digits that tell them from others."""

    params: Tree
    stats: Tree
    fingerprint: str


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


def read_parameters(path: str | Path, mesh: Mesh | None) -> RunParameters:
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
    seal = step_place(directory, metadata["step"]) / SEAL
    return RunParameters(
        merged(config, arrays[kept], arrays["frozen"]),
        arrays["stats"],
        hashlib.sha256(seal.read_bytes()).hexdigest()[:16],
    )
