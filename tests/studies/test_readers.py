import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vitjax.nn.functional import split
from vitjax.studies.lab.readers import ALPHABET, LSTM, READERS, RNN, TRANSFORMER, Reader, prose, recall
from vitjax.studies.lab.recurrence import by_distance, carousel, training_steps
from vitjax.studies.lab.training import stacked


@pytest.mark.parametrize("name", READERS)
def test_readers_know_no_token_to_come(name):
    reader = Reader(name, 8, 2, every=True, rngs=nnx.Rngs(0))
    tokens = jnp.arange(10).reshape(2, 5)
    before, after = reader(tokens, train=False), reader(tokens.at[:, 3].add(1), train=False)
    assert (before[:, :3] == after[:, :3]).all()
    assert (before[:, 3:] != after[:, 3:]).any(axis=-1).all()
    assert Reader(name, 8, 2, rngs=nnx.Rngs(0))(tokens, train=False).shape == (2, len(ALPHABET))


def test_a_layer_of_a_transformer_is_as_large_as_an_lstms():
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(split(Reader(name, 32, rngs=nnx.Rngs(0)))[1]["layers"]))
        for name in (LSTM, TRANSFORMER)
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_tasks():
    asked = recall(5, 100)
    assert asked.inputs.shape == (100, 6) and (asked.inputs[:, 0] == asked.answers).all()
    assert not np.isin(asked.inputs[:, 1:], asked.answers).any()
    text = prose(7, 100)
    assert text.inputs.shape == (100, 7) and (text.inputs[:, 1:] == text.answers[:, :-1]).all()


def test_gradients_along_an_rnn_and_an_lstms_memory():
    tokens = recall(6, 4).inputs
    definition, params, _ = split(Reader(RNN, 8, rngs=nnx.Rngs(0)))
    params["layers"]["hidden"]["kernel"] *= 0.0
    (reach,) = by_distance(definition, stacked([params]), tokens)
    assert reach[0] > 0 and (reach[1:] == 0).all()

    definition, params, _ = split(Reader(LSTM, 8, rngs=nnx.Rngs(0)))
    params = jax.tree.map(jnp.zeros_like, params)  # all gates at a half
    assert [float(each[0]) for each in carousel(definition, stacked([params]), tokens)] == [0, 0.5, 0.5**6]


def test_work_of_training_steps():
    chain, work, seconds = training_steps(1, 8, 2, (4, 8), 1)
    longer = training_steps(1, 8, 2, (16, 32), 1)
    assert chain[LSTM][1] - chain[LSTM][0] == 2 * 4 and chain[TRANSFORMER][0] == chain[TRANSFORMER][1]
    assert longer[1][LSTM] == pytest.approx(4 * work[LSTM], rel=0.05)
    assert np.shape(seconds[LSTM]) == (2, 1) and np.min(seconds[LSTM]) > 0
