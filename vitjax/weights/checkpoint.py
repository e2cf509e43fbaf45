"""A folder of somebody's weights, as one of our models: recognized, compared with the model name by name, then read."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vitjax.models.config import ModelConfig
from vitjax.nn import functional
from vitjax.nn.functional import Tree
from vitjax.parallel.paths import named_leaves
from vitjax.weights.config_types import require_types
from vitjax.weights.copies import WithoutCopies
from vitjax.weights.families import recognize
from vitjax.weights.family import Family, Fields
from vitjax.weights.folder import open_tensors
from vitjax.weights.stored import file_status, one_line
from vitjax.weights.table import Table
from vitjax.weights.tensors import Tensors, TensorSpec

MAX_JSON_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds, its arrays not yet read.

    Attributes:
      fields: its config.json; {} for an .npz.
      definition, params, stats: our model without arrays, as `vitjax.nn.functional.abstract` gives it.
    """

    path: Path
    family: Family
    fields: Fields
    config: ModelConfig
    tensors: Tensors
    table: Table
    params: Tree
    stats: Tree

    def ignores(self, name: str) -> str | None:
        """Why an array, by its name on disk, is left out; None if it is part of the model."""
        short = name.removeprefix(self.family.prefix)
        if short in self.table.expected:
            return None
        if short in (copies := self.family.copies(self.fields)):
            return f"repeats {copies[short]}"
        return next(each.reason for each in self.family.ignored if re.fullmatch(each.pattern, short))

    def read(self, mesh: Mesh | None = None) -> tuple[Tree, Tree]:
        """`(params, stats)`, laid out on the mesh by the rules of `vitjax.parallel.sharding`, or on one device."""
        return self.table.read(self.tensors, self.params, mesh), self.table.read(
            self.tensors, self.stats, mesh
        )


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Recognize a folder (or one .npz), translate its configuration, and compare every name and shape.

    Raises:
      ValueError: one line: no such folder, a pickle, an unknown or wrong family, an array missing, left over, of
        another shape.
    """
    path = Path(path)
    tensors = open_tensors(path)
    fields = read_json(path / "config.json") if (path / "config.json").exists() else {}
    with _explained(path):
        family = recognize(fields, tensors.specs, str(path))
        view = WithoutCopies(_WithoutPrefix(tensors, family.prefix), family.copies(fields))
        config = family.read_config(fields, view.specs)
        require_types(config)
        params, stats, table = matched(family, config)
    table.check(view.specs, family.ignored, str(path))
    return Checkpoint(path, family, fields, config, view, table, params, stats)


def read_json(path: Path) -> dict[str, Any]:
    """An object out of a JSON file; ValueError, one line, if it is missing or something else."""
    try:
        if file_status(path).st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES} bytes")
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: it says which model the weights are of") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {one_line(error)}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds a {type(fields).__name__}: expected an object")
    return fields


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A config.json with texts or lists where numbers should be is a ValueError too, not a traceback."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
        raise ValueError(reason if reason.startswith(str(path)) else f"{path}: {reason}") from None


def matched(family: Family, config: ModelConfig) -> tuple[Tree, Tree, Table]:
    """Our model without arrays, `(params, stats)`, and the family's table for it."""

    def build(rngs: nnx.Rngs) -> nnx.Module:
        return config.build(rngs=rngs)

    _, params, stats = functional.abstract(build)
    return params, stats, Table(family.entries(config), named_leaves(params) | named_leaves(stats))


class _WithoutPrefix:
    """Tensors by their names without the prefix of the base model, where they have it."""

    def __init__(self, tensors: Tensors, prefix: str):
        self._tensors = tensors
        self._names = {name.removeprefix(prefix) if prefix else name: name for name in tensors.specs}
        if len(self._names) != len(tensors.specs):
            names = list(tensors.specs)
            twice = next(name for name in names if prefix + name in names)
            raise ValueError(
                f"{tensors.specs[twice].file}: both {twice} and {prefix + twice} are there: expected one"
            )
        self.specs: Mapping[str, TensorSpec] = {
            short: tensors.specs[name] for short, name in self._names.items()
        }

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        return self._tensors.read(self._names[name], index)
