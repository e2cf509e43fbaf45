"""One of our models, as a family of another library: its config.json and its arrays by their names on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vitjax.models.config import ModelConfig
from vitjax.nn.functional import Tree
from vitjax.parallel.paths import named_leaves
from vitjax.weights.checkpoint import matched
from vitjax.weights.families import FAMILIES
from vitjax.weights.family import Family, Fields, Format
from vitjax.weights.table import Table
from vitjax.weights.tensors import TensorSpec
from vitjax.weights.untrained import untrained
from vitjax.weights.writing import Storable


def translate(
    config: ModelConfig, params: Tree, stats: Tree, format: Format, *, prefer: str | None = None
) -> tuple[Family, Fields, Mapping[str, Storable]]:
    """A model as one of the families of a format: that family, its config.json, its arrays by their names on disk.

    Args:
      prefer: the name of the family to try first, the one that the model was read as.

    Raises:
      ValueError: no family of that format has such a model; the line tells why the nearest has not.
    """
    arrays = named_leaves(params) | named_leaves(stats)
    reasons: list[tuple[int, str]] = []  # how far a family came with the model, and what is amiss
    for family in sorted(FAMILIES, key=lambda family: family.name != prefer):
        if family.format == format:
            came = 0
            try:
                fields = family.write_config(config)
                came = 1
                table = matched(family, config)[2]
                came = 2
                named = {name: _OnDisk(table, name, arrays) for name in table.expected}
                specs = {name: TensorSpec(array.shape, array.dtype.name, "") for name, array in named.items()}
                found = family.read_config(fields, specs)
                wanted, found = untrained(config), untrained(found)
                if found != wanted:
                    raise ValueError(f"it would come back with {_difference(wanted, found)}")
                return family, fields, _prefixed(family, named)
            except ValueError as error:
                reasons.append((came, f": {family.name}: {error}"))
    why = max(reasons, key=lambda reason: reason[0], default=(0, ""))[1]
    raise ValueError(f"this model cannot be written in the format {format}{why}")


@dataclass(frozen=True)
class _OnDisk:
    """One array of theirs, made of ours when it is asked for."""

    table: Table
    name: str
    arrays: Mapping[str, jax.Array]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table.expected[self.name]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.arrays[self.table.entry_of[self.name].ours[0]].dtype)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.table.written(self.name, self.arrays)


def _prefixed(family: Family, named: Mapping[str, Storable]) -> dict[str, Storable]:
    """With the prefix of the base model, where the file also holds a head or the family has none."""
    if family.heads and not any(name.startswith(family.heads) for name in named):
        return dict(named)
    return {
        name if family.heads and name.startswith(family.heads) else family.prefix + name: array
        for name, array in named.items()
    }


def _difference(ours: Any, found: Any, where: str = "") -> str:
    """The first field in which two configs differ, and its two values."""
    for name in getattr(ours, "__dataclass_fields__", {}):
        a, b = getattr(ours, name), getattr(found, name, None)
        if a != b:
            return (
                _difference(a, b, f"{where}{name}.")
                if hasattr(a, "__dataclass_fields__") and type(a) is type(b)
                else f"{where}{name}: {b!r} instead of {a!r}"
            )
    return f"{where or 'model'}: {found!r}"
