import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.analysis.programs import collectives, longest_chain
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import abstract, merge

SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def repeated(x, y):
    return jax.lax.scan(lambda carry, _: (carry @ y, carry @ y @ y), x, length=5)[0]


def stacked(x, y):
    return jax.lax.scan(lambda carry, _: (carry, carry @ y @ y), x, length=5)[1]


def until(x, y):
    return jax.lax.while_loop(lambda carry: carry.sum() > 0, lambda carry: carry @ y, x)


@pytest.mark.parametrize(
    "function, products",
    [
        (lambda x, y: x + y, 0),
        (lambda x, y: x @ y @ y, 2),
        (lambda x, y: x @ y + y @ x, 1),  # neither waits for the other
        (repeated, 5),
        (stacked, 2),  # nothing is carried from one iteration to the next
        (until, 7),
        (lambda x, y: jax.lax.cond(x[0, 0] > 0, lambda: x @ y @ y, lambda: x @ y), 2),
        (lambda x, y: jax.lax.cond((x @ y)[0, 0] > 0, lambda: x, lambda: y), 1),
        (jax.jit(lambda x, y: jax.nn.relu(x @ y) @ y), 2),
        (jax.checkpoint(lambda x, y: x @ y @ y), 2),
        (jax.grad(lambda x, y: jnp.square(jnp.tanh(x @ y) @ y).sum()), 4),  # forward 2, backward 2
    ],
)
def test_products_that_wait_for_each_other(function, products):
    assert longest_chain(function, SQUARE, SQUARE, iterations=7) == products


def test_a_layer_of_a_transformer_is_six_products_deep():
    def chain(depth: int, size: int) -> int:
        config = VisionTransformerConfig(
            TransformerConfig(8, depth, 2, 16), image_size=(size, size), patch_size=(2, 2), pooling="none"
        )
        definition, params, _ = abstract(lambda rngs: config.build(rngs=rngs))
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        return longest_chain(lambda p, x: merge(definition, p).encode(x, train=False)[0], params, images)

    # a patch is embedded by one; keys, scores, values, output and the two of the feed-forward network follow
    assert chain(3, 8) == 1 + 3 * 6 == chain(3, 4)
    assert chain(4, 4) == 1 + 4 * 6


def test_bytes_of_a_collective():
    (found,) = collectives(["  %x = (f32[2,3]{1,0}, bf16[4]{0}) all-gather-start(%a, %b), dimensions={0}"])
    assert found == ("all-gather", 10, 32)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("x"))
    total = jax.jit(lambda x: x.sum(0)).lower(jax.device_put(np.ones((8, 3), np.float32), split)).compile()
    (found,) = collectives(total.as_text().splitlines())
    assert found == ("all-reduce", 3, 12)
