"""Names for the leaves of a pytree: "/"-joined paths, the same for sharding rules, checkpoints and reports."""

import re
from collections.abc import Iterable, Mapping
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


def nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `named_leaves` for nested dicts with string keys."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The names that one of the patterns (regular expressions) matches as a whole."""
    return {name for name in names if any(re.fullmatch(pattern, name) for pattern in patterns)}


def is_stacked(name: str) -> bool:
    """Whether a parameter is one of a stack of blocks, so that its first axis is the layers'."""
    return re.search(r"(^|/)\w*blocks/(?!\d+/)", name) is not None
