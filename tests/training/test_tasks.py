"""What a batch of tokens is asked: in training a share of it in parallel, in evaluation never."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.nn.trees import parts
from tests.training.runs import TRANSFORMER, noise, transcriber
from vitjax.nn.functional import merge
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.sharding import batch_sharding, replicated
from vitjax.training.losses import token_cross_entropy
from vitjax.training.tasks import loss_function, source_of


def parallel_transcriber(**options):
    config = transcriber(dataclasses.replace(TRANSFORMER, depth=1))
    decoder = dataclasses.replace(config.model.decoder, parallel_prediction=True)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, decoder=decoder))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **options))


@functools.cache
def model():
    """`(definition, params)` with random parameters."""
    return parts(lambda rngs: parallel_transcriber().model.build(rngs=rngs), scale=0.2)[:2]


def loss_of(config, key, *, train):
    """A compiled `(params, batch) -> (loss, gradients)`."""
    definition, _ = model()

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        return loss_function(config, merge(definition, params), batch, train=train, key=key).mean

    return loss


def test_all_or_none_in_parallel():
    """Fraction 0 and evaluation read the tokens before; fraction 1 reads none, and learns the mask token."""
    config = parallel_transcriber()
    batch = jax.device_put(noise(config))
    definition, params = model()
    key = jax.random.key(1)

    @jax.jit
    def by_hand(params):
        whole, tokens = merge(definition, params), batch["tokens"]
        encoded = whole.encode(source_of(config, batch)[0], train=False)
        logits = [
            whole.decode(encoded, tokens[:, :-1], parallel=p, train=False).logits for p in (False, True)
        ]
        return [token_cross_entropy(each, tokens[:, 1:]).mean for each in logits]

    forced, parallel = map(float, by_hand(params))
    assert abs(forced - parallel) > 1e-3
    none, gradients = loss_of(config, key, train=True)(params, batch)
    assert float(none) == pytest.approx(forced, abs=1e-6)
    assert not gradients["decoder"]["embedding"]["mask_token"].any()
    every = parallel_transcriber(parallel_fraction=1.0)
    all_of_it, gradients = loss_of(every, key, train=True)(params, batch)
    assert float(all_of_it) == pytest.approx(parallel, abs=1e-6)
    assert gradients["decoder"]["embedding"]["mask_token"].any()
    assert not gradients["decoder"]["embedding"]["tokens"]["embedding"].any()
    assert float(loss_of(every, None, train=False)(params, batch)[0]) == pytest.approx(forced, abs=1e-6)
    with pytest.raises(ValueError, match="parallel_fraction 1.0 draws examples: pass key"):
        loss_of(every, None, train=True)(params, batch)


def test_a_fraction_is_drawn_for_each_example():
    """Which rows were drawn shows in which of them still feel a change of their first token."""
    config = parallel_transcriber(parallel_fraction=0.75)
    batch = jax.device_put(noise(config))
    definition, params = model()

    @jax.jit
    @jax.vmap
    def drawn(key):
        def loss(row, token):  # of one row alone, with another token at its begin
            tokens = batch["tokens"].at[row, 0].set(token)
            weights = jnp.arange(len(tokens)) == row
            given = {**batch, "tokens": tokens, "mask": weights}
            return loss_function(config, merge(definition, params), given, train=True, key=key).total

        rows = jnp.arange(len(batch["tokens"]))
        return jax.vmap(loss, (0, None))(rows, 1) == jax.vmap(loss, (0, None))(rows, 5)

    parallel = np.asarray(drawn(jax.random.split(jax.random.key(3), 8)))  # [8, 16]
    assert 0.6 < parallel.mean() < 0.9
    assert len({tuple(row) for row in parallel}) == 8  # another draw for each step
    assert (parallel.any(0) & ~parallel.all(0)).sum() > 10  # and no row is always in one mode


def test_devices_that_share_a_batch_draw_the_same_examples():
    config = parallel_transcriber(parallel_fraction=0.5)
    _, params = model()
    loss = loss_of(config, jax.random.key(0), train=True)
    mesh = make_mesh(MeshConfig.parse("data=4"), jax.devices()[:4])
    params = jax.device_put(params, replicated(mesh))
    alone, _ = loss(params, jax.device_put(noise(config), replicated(mesh)))
    split, gradients = loss(params, jax.device_put(noise(config), batch_sharding(mesh)))
    assert float(split) == pytest.approx(float(alone), abs=1e-5)
    assert gradients["decoder"]["embedding"]["mask_token"].any()
