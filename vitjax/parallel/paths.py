"""Names for the leaves of a pytree: "/"-joined paths, the same for sharding rules, checkpoints and reports."""

from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey


def _component(key: Any) -> str:
    match key:
        case DictKey(key=name) | FlattenedIndexKey(key=name):
            return str(name)
        case SequenceKey(idx=index):
            return str(index)
        case GetAttrKey(name=name):
            return str(name)
    return str(key)


def path_name(path: tuple[Any, ...]) -> str:
    """One key path of `jax.tree_util` as a "/"-joined string, as in "opt_state/0/mu/head/kernel"."""
    return "/".join(map(_component, path))


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf by its path, in tree order.

    Raises:
        ValueError: two leaves have the same name, or a key holds a "/", which the names could not tell apart.
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path)
        if name in named or name.count("/") != len(path) - 1:
            raise ValueError(f'the tree has a leaf {name!r} whose keys clash or hold a "/"; rename the key')
        named[name] = leaf
    return named
