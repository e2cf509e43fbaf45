import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.nn.regularization import dropout, split_key, stochastic_depth

KEY = jax.random.key(0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_statistics(rate: float) -> None:
    x = jnp.full((200, 500), 2.0)
    out = np.asarray(dropout(x, rate, train=True, key=KEY))
    assert set(np.unique(out)) == {0.0, np.float32(2.0 / (1.0 - rate))}
    deviation = np.sqrt(rate * (1 - rate) / out.size)
    assert abs((out == 0).mean() - rate) < 5 * deviation
    assert abs(out.mean() / 2 - 1) < 5 * deviation / (1 - rate)
    # elements are dropped one by one, not by row or column
    assert 0 < (out[0] == 0).sum() < 500 and 0 < (out[:, 0] == 0).sum() < 200


def test_dropout_is_off_in_eval_mode_and_at_rate_zero() -> None:
    x = jnp.arange(6.0)
    assert dropout(x, 0.5, train=False, key=KEY) is x
    assert dropout(x, 0.5, train=False, key=None) is x
    assert dropout(x, 0.0, train=True, key=None) is x


def test_train_mode_needs_a_key() -> None:
    with pytest.raises(ValueError, match=r"dropout rate 0\.5 in train mode needs a key: pass key="):
        dropout(jnp.ones(3), 0.5, train=True, key=None)
    with pytest.raises(ValueError, match="stochastic depth in train mode needs a key: pass key="):
        stochastic_depth(jnp.ones((3, 2)), 0.5, train=True, key=None)


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_stochastic_depth_drops_whole_examples(rate: float) -> None:
    x = jnp.ones((20_000, 2, 3))
    out = np.asarray(stochastic_depth(x, rate, train=True, key=KEY))
    examples = out.reshape(20_000, -1)
    assert (examples == examples[:, :1]).all()
    kept = examples[:, 0] != 0
    np.testing.assert_allclose(examples[kept, 0], 1 / (1 - rate), rtol=1e-6)
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / 20_000)


def test_stochastic_depth_takes_a_traced_rate_and_keeps_the_dtype() -> None:
    x = jnp.ones((64, 4), jnp.bfloat16)
    run = jax.jit(lambda rate: stochastic_depth(x, rate, train=True, key=KEY))
    assert run(0.5).dtype == jnp.bfloat16
    np.testing.assert_array_equal(run(0.0), x)
    assert stochastic_depth(x, 0.5, train=False, key=None) is x


@given(st.integers(0, 2**31 - 1))
def test_a_key_fixes_what_is_dropped(seed: int) -> None:
    x, key = jnp.ones(64), jax.random.key(seed)
    first = dropout(x, 0.5, train=True, key=key)
    np.testing.assert_array_equal(first, dropout(x, 0.5, train=True, key=key))
    other = dropout(x, 0.5, train=True, key=jax.random.fold_in(key, 1))
    assert not np.array_equal(first, other)


def test_split_key() -> None:
    assert split_key(None, 3) == [None, None, None]
    data = {tuple(np.asarray(jax.random.key_data(k))) for k in split_key(KEY, 5)}
    assert len(data) == 5 and tuple(np.asarray(jax.random.key_data(KEY))) not in data
