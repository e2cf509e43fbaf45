from typing import NamedTuple

import jax
import pytest

from vitjax.parallel.paths import named_leaves


class Moments(NamedTuple):
    mu: dict
    nu: dict


def test_names_are_the_keys_of_dicts_sequences_and_named_tuples():
    tree = {"params": {"head": {"kernel": 1}}, "opt_state": (Moments({"b": 2}, {"b": 3}), [4])}
    assert named_leaves(tree) == {
        "params/head/kernel": 1,
        "opt_state/0/mu/b": 2,
        "opt_state/0/nu/b": 3,
        "opt_state/1/0": 4,
    }


def test_order_is_the_trees_own():
    tree = {"b": 1, "a": [2, {"c": 3}]}
    assert list(named_leaves(tree).values()) == jax.tree.leaves(tree)


@pytest.mark.parametrize("tree", [{"a/b": 1}, {"a": {"b/c": 2}}, {"a": {"b": 1}, "a/b": 2}])
def test_a_slash_in_a_key_is_refused(tree):
    with pytest.raises(ValueError, match="rename the key"):
        named_leaves(tree)
