import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.decoding import Sequences


def example(batch=2, returned=3, length=5):
    return Sequences(
        tokens=jnp.arange(batch * returned * length).reshape(batch, returned, length),
        scores=jnp.zeros((batch, returned)),
        lengths=jnp.full((batch, returned), length),
        token_log_probs=jnp.zeros((batch, returned, length)),
        finished=jnp.zeros((batch, returned), bool),
        steps=jnp.int32(length - 1),
    )


def test_is_a_pytree_of_anything():
    assert isinstance(jax.device_get(example()).tokens, np.ndarray)
    assert jax.tree.map(jnp.shape, example()).scores == (2, 3)
    assert jax.eval_shape(lambda s: s, example()).tokens.shape == (2, 3, 5)
    assert jax.jit(lambda s: s)(example()).tokens.tolist() == example().tokens.tolist()
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(example())]
    assert paths == [".tokens", ".scores", ".lengths", ".token_log_probs", ".finished", ".steps"]


def test_is_frozen():
    with pytest.raises(AttributeError):
        example().tokens = None
