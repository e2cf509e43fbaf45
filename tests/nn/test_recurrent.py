import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from tests.nn.reference import sigmoid
from tests.nn.trees import gradients_match, normal, parts
from vitjax.nn import functional
from vitjax.nn.recurrent import LSTMCell, LSTMState, RNNCell, recur

B, T, E, D = 3, 6, 4, 5
DEFINITION, PARAMS, _ = parts(lambda rngs: LSTMCell(E, D, rngs=rngs))


@jax.jit
def run(params, x, state, mask=None):
    return recur(functional.merge(DEFINITION, params), x, state, mask)


def state(seed=1):
    return LSTMState(jnp.tanh(normal(B, D, seed=seed)), normal(B, D, seed=seed + 1))


def reference_step(params, x, hidden, cell):
    """Gers et al. (2000), one gate after the other."""

    def gate(i):
        columns = slice(i * D, (i + 1) * D)
        inputs = x @ np.asarray(params["input"]["kernel"], float)[:, columns]
        recurrent = hidden @ np.asarray(params["hidden"]["kernel"], float)[:, columns]
        return inputs + recurrent + np.asarray(params["input"]["bias"], float)[columns]

    cell = sigmoid(gate(1)) * cell + sigmoid(gate(0)) * np.tanh(gate(2))
    return sigmoid(gate(3)) * np.tanh(cell), cell


def test_lstm_is_the_formula_step_by_step():
    x, start = normal(B, T, E), state()
    got, last = run(PARAMS, x, start)
    hidden, cell = (np.asarray(part, float) for part in start)
    for t in range(T):
        hidden, cell = reference_step(PARAMS, np.asarray(x[:, t], float), hidden, cell)
        np.testing.assert_allclose(got[:, t], hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last.hidden, hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last.cell, cell, rtol=1e-5, atol=1e-6)


def test_the_gates_shown_are_those_that_act():
    cell, start, x = functional.merge(DEFINITION, PARAMS), state(), normal(B, E)
    gates = cell.gates(cell.input(x), start)
    after = cell(x, start)
    np.testing.assert_array_equal(gates.forget * start.cell + gates.enter * gates.candidate, after.cell)
    np.testing.assert_array_equal(gates.leave * jnp.tanh(after.cell), after.hidden)


def test_a_plain_cell_is_the_formula_step_by_step():
    cell = RNNCell(E, D, rngs=nnx.Rngs(0))
    x, start = normal(B, T, E), cell.initial_state(B)
    got, last = recur(cell, x, start)
    kernels = [np.asarray(part.kernel[...], float) for part in (cell.input, cell.hidden)]
    hidden = np.asarray(start.hidden, float)
    for t in range(T):
        hidden = np.tanh(np.asarray(x[:, t], float) @ kernels[0] + hidden @ kernels[1])
        np.testing.assert_allclose(got[:, t], hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(last.hidden, got[:, -1])
    np.testing.assert_allclose(kernels[1] @ kernels[1].T, np.eye(D), atol=1e-5)
    np.testing.assert_allclose(cell(x[:, 0], start).hidden, got[:, 0], rtol=1e-5, atol=1e-6)


def test_a_cell_takes_any_batch_shape():
    cell = functional.merge(DEFINITION, PARAMS)
    x = normal(2, 7, E)
    beams = cell(x, cell.initial_state(2, 7))
    flat = cell(x.reshape(14, E), cell.initial_state(14))
    np.testing.assert_allclose(beams.hidden.reshape(14, D), flat.hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(beams.cell.reshape(14, D), flat.cell, rtol=1e-5, atol=1e-6)


@given(
    lengths=st.lists(st.integers(0, T), min_size=B, max_size=B),
    left=st.booleans(),
)
def test_padding_on_either_side_leaves_no_trace(lengths, left):
    x, start = np.array(normal(B, T, E)), state()
    mask = np.arange(T) < np.array(lengths)[:, None]
    if left:
        mask = mask[:, ::-1]
    real, last = run(PARAMS, jnp.asarray(x), start, jnp.asarray(mask))
    other, same = run(PARAMS, jnp.asarray(np.where(mask[:, :, None], x, 1e3)), start, jnp.asarray(mask))
    jax.tree.map(np.testing.assert_array_equal, last, same)
    np.testing.assert_array_equal(np.asarray(real)[mask], np.asarray(other)[mask])
    for b, length in enumerate(lengths):
        row = LSTMState(start.hidden[b : b + 1], start.cell[b : b + 1])
        if length:
            kept = x[b : b + 1, T - length :] if left else x[b : b + 1, :length]
            row = run(PARAMS, jnp.asarray(kept), row)[1]
        np.testing.assert_allclose(last.hidden[b], row.hidden[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last.cell[b], row.cell[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options, forget", [({}, 1.0), ({"forget_bias": 5.0}, 5.0)])
def test_a_new_cell_remembers(options, forget):
    params = functional.split(LSTMCell(E, D, rngs=nnx.Rngs(0), **options))[1]
    bias = np.asarray(params["input"]["bias"]).reshape(4, D)
    np.testing.assert_array_equal(bias, np.repeat([[0.0], [forget], [0], [0]], D, axis=1))
    gates = np.split(np.asarray(params["hidden"]["kernel"]), 4, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(D), atol=1e-5)
    assert np.abs(gates[0] - gates[1]).max() > 0.1


def test_gradients():
    mask = jnp.asarray([[True] * T, [False] * 2 + [True] * (T - 2), [True] * 3 + [False] * (T - 3)])
    gradients_match(lambda params, x, start: run(params, x, start, mask), PARAMS, normal(B, T, E), state())


def test_bfloat16_arithmetic_keeps_the_memory_in_float32():
    cell = functional.merge(
        functional.abstract(lambda rngs: LSTMCell(E, D, dtype="bfloat16", rngs=rngs))[0], PARAMS
    )
    hidden, last = recur(cell, normal(B, T, E), cell.initial_state(B))
    assert hidden.dtype == last.hidden.dtype == jnp.bfloat16 and last.cell.dtype == jnp.float32
    exact, _ = run(PARAMS, normal(B, T, E), LSTMState(jnp.zeros((B, D)), jnp.zeros((B, D))))
    np.testing.assert_allclose(hidden.astype(jnp.float32), exact, atol=0.03)


@pytest.mark.parametrize("graph", [False, True])
def test_graph_mode_changes_nothing(graph):
    with nnx.set_graph_mode(graph):
        cell = LSTMCell(E, D, rngs=nnx.Rngs(0))
        definition, params, stats = functional.split(cell)
        assert stats == {}
        got = jax.jit(lambda p, x: recur(functional.merge(definition, p), x, cell.initial_state(B))[0])(
            params, normal(B, T, E)
        )
    want = recur(LSTMCell(E, D, rngs=nnx.Rngs(0)), normal(B, T, E), cell.initial_state(B))[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
