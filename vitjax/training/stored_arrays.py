"""The arrays of a state as Orbax stores them: named by path, with a spec to compare before anything is read.

A state is any pytree of arrays (dicts, optax's named tuples). Stored is a nested dict keyed by the components of each
leaf's path, so that a file says nothing about Python classes and any Orbax can read it. Typed PRNG keys are stored as
their bits; the spec remembers the generator.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from vitjax.parallel.paths import named_leaves, nested


class ArraySpec(TypedDict):
    """What is known of an array before reading it. `generator` is of typed PRNG keys only."""

    shape: list[int]
    dtype: str
    generator: str | None


Spec = dict[str, ArraySpec]


def spec_of(tree: Any) -> Spec:
    """The spec of every leaf (arrays or ShapeDtypeStructs) by its "/"-joined path.

    Raises:
        ValueError: a leaf is no array, or two leaves would be stored under one name.
    """
    spec: Spec = {}
    for name, leaf in named_leaves(tree).items():
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise ValueError(
                f"{name} is a {type(leaf).__name__}; a checkpoint holds arrays; make it one, or move it to the metadata"
            )
        generator = str(jax.random.key_impl(leaf)) if _is_key(leaf) and isinstance(leaf, jax.Array) else None
        spec[name] = ArraySpec(shape=list(leaf.shape), dtype=str(leaf.dtype), generator=generator)
    # Orbax joins with dots: {"a.b": x} and {"a": {"b": y}} would overwrite each other.
    if len({name.replace("/", ".") for name in spec}) != len(spec):
        raise ValueError("two arrays of the state have the same path when joined by dots; rename a key")
    return spec


def require_same(stored: Spec, wanted: Spec, where: str) -> None:
    """Refuses a checkpoint of another shape, dtype or set of arrays, before reading any of it.

    Raises:
        ValueError: one line that names the first array that differs, what was found and what was expected.
    """
    for name, found in stored.items():
        expected = wanted.get(name)
        if expected is not None and _form(found) != _form(expected):
            raise ValueError(
                f"{where}: {name} is {_form(found)} there, expected {_form(expected)}; "
                "it was saved with another configuration"
            )
    for names, is_there in ((wanted.keys() - stored.keys(), False), (stored.keys() - wanted.keys(), True)):
        if names:
            first = min(names)
            form = _form(stored[first] if is_there else wanted[first])
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            problem = "is there but not expected" if is_there else "is expected but not there"
            raise ValueError(
                f"{where}: {first} {form}{more} {problem}; it was saved by another model or optimizer configuration"
            )


def selected(spec: Spec, only: Collection[str] | None) -> Spec:
    """The part of `spec` whose first path component is in `only` (None: all)."""
    if only is None:
        return spec
    return {name: array for name, array in spec.items() if name.split("/", 1)[0] in only}


def storable(tree: Any) -> dict[str, Any]:
    """The nested dict that goes to Orbax."""
    return nested({name: _bits(leaf) for name, leaf in named_leaves(tree).items()})


def read(reader: ocp.AsyncCheckpointer, directory: Path, spec: Spec, target: Any = None) -> Any:
    """Reads the arrays of `spec`, and no others, from `directory`.

    Args:
        spec: what to read; with a target, exactly its arrays (`require_same` has said so).
        target: pytree of arrays or ShapeDtypeStructs; each array arrives with the sharding its target has, on
            whatever mesh that is. Without one, a nested dict of NumPy arrays (PRNG keys as JAX keys).
    """
    places = {} if target is None else named_leaves(target)
    restore_args = {
        name: _restore_args(array, getattr(places.get(name), "sharding", None))
        for name, array in spec.items()
    }
    flat = named_leaves(
        reader.restore(
            directory,
            args=ocp.args.PyTreeRestore(
                item=nested(dict.fromkeys(spec, 0)), restore_args=nested(restore_args), partial_restore=True
            ),
        )
    )
    arrays = {name: _typed(flat[name], array) for name, array in spec.items()}
    if target is None:
        return nested(arrays)
    leaves = [
        np.asarray(arrays[name]) if isinstance(leaf, np.ndarray) else jnp.asarray(arrays[name])
        for name, leaf in places.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(target), leaves)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _typed(bits: Any, spec: ArraySpec) -> Any:
    generator = spec["generator"]
    return bits if generator is None else jax.random.wrap_key_data(jnp.asarray(bits), impl=generator)


def _restore_args(spec: ArraySpec, sharding: Sharding | None) -> ocp.RestoreArgs:
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding)


def _form(spec: ArraySpec) -> str:
    return f"{spec['dtype']}[{','.join(map(str, spec['shape']))}]"
