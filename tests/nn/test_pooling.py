import jax.numpy as jnp
import numpy as np
import pytest

from tests.nn import reference
from tests.nn.trees import gradients_match, normal, parts
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.pooling import AttentionPooling, mean_of


def pool(**options):
    config = TransformerConfig(width=8, depth=1, num_heads=2, feed_forward_width=12, **options)
    definition, params, _ = parts(lambda rngs: AttentionPooling(config, rngs=rngs))
    return definition, params


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_against_numpy(activation: str) -> None:
    definition, params = pool(activation=activation, norm_epsilon=1e-3)
    x = np.asarray(normal(3, 5, 8), float)
    probe = np.broadcast_to(np.asarray(params["probe"], float), (3, 1, 8))
    pooled = reference.multi_head_attention(probe, x, params["attention"])
    norm = {name: np.asarray(value) for name, value in params["norm"].items()}
    hidden = reference.layer_norm(pooled, norm["scale"], norm["bias"], 1e-3)
    want = (pooled + reference.feed_forward(hidden, params["feed_forward"], activation))[:, 0]
    got = functional.merge(definition, params)(normal(3, 5, 8), train=False).vector
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_order_of_the_tokens_does_not_matter() -> None:
    definition, params = pool()
    head, x = functional.merge(definition, params), normal(2, 5, 8)
    there, back = head(x, train=False).vector, head(x[:, ::-1], train=False).vector
    np.testing.assert_allclose(back, there, rtol=1e-4, atol=1e-6)


def test_weights_on_request() -> None:
    definition, params = pool()
    head, x = functional.merge(definition, params), normal(2, 5, 8)
    plain, asked = head(x, train=False), head(x, train=False, return_weights=True)
    assert plain.weights is None and asked.weights.shape == (2, 2, 1, 5)
    np.testing.assert_array_equal(plain.vector, asked.vector)


def test_masked_tokens_are_not_looked_at() -> None:
    definition, params = pool()
    head, x = functional.merge(definition, params), normal(2, 5, 8)
    mask = jnp.arange(5) < jnp.asarray([[3], [5]])
    for pooled in (lambda x, mask=None: head(x, mask=mask, train=False).vector, mean_of):
        got = pooled(x, mask)
        np.testing.assert_allclose(got[0], pooled(x[:1, :3])[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got[1], pooled(x[1:])[0], rtol=1e-5, atol=1e-6)


def test_gradients_and_bfloat16() -> None:
    definition, params = pool()
    gradients_match(
        lambda p, x: functional.merge(definition, p)(x, train=False).vector, params, normal(2, 4, 8)
    )
    definition, params = pool(dtype="bfloat16")
    out = functional.merge(definition, params)(normal(2, 4, 8).astype(jnp.bfloat16), train=True).vector
    assert out.dtype == jnp.bfloat16 and out.shape == (2, 8)
