"""The long short-term memory: a cell with its state outside, and the loop over time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float


class LSTMState(NamedTuple):
    """`hidden` [..., D]: what the cell says, in the compute dtype; `cell` [..., D]: what it keeps, in float32."""

    hidden: Array
    cell: Array


def _orthogonal_gates(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Array:
    """An orthogonal matrix for each of the four gates (Saxe et al. 2014)."""
    width = shape[0]
    gates = [nnx.initializers.orthogonal()(k, (width, width), dtype) for k in jax.random.split(key, 4)]
    return jnp.concatenate(gates, axis=-1)


def _remembering(key: Array, shape: tuple[int], dtype: DTypeLike) -> Array:
    """Biases of the gates: 1 for the forget gate, so that a new cell remembers, else 0."""
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(1)


class LSTMCell(nnx.Module):
    """An LSTM cell (Hochreiter and Schmidhuber 1997) with forget gate (Gers et al. 2000).

    Gates lie in the order input, forget, candidate, output (PyTorch's) along the 4D outputs of `input` and `hidden`.
    """

    def __init__(self, input_width: int, width: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        common: dict[str, Any] = dict(dtype=jnp.dtype(dtype), param_dtype=jnp.float32, rngs=rngs)
        self.input = nnx.Linear(input_width, 4 * width, bias_init=_remembering, **common)
        self.hidden = nnx.Linear(width, 4 * width, use_bias=False, kernel_init=_orthogonal_gates, **common)
        self.width = width
        self.dtype = dtype

    def initial_state(self, *batch: int) -> LSTMState:
        """Zeros for a batch of any shape."""
        return LSTMState(
            jnp.zeros((*batch, self.width), self.dtype), jnp.zeros((*batch, self.width), jnp.float32)
        )

    def advance(self, gates: Float[Array, "*B G"], state: LSTMState) -> LSTMState:
        """One step from what the inputs give to the gates, G = 4D: all of it that does not wait for the last step."""
        gates = (gates + self.hidden(state.hidden)).astype(jnp.float32)
        enter, forget, candidate, leave = jnp.split(gates, 4, axis=-1)  # [..., D] each
        cell = jax.nn.sigmoid(forget) * state.cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
        return LSTMState(hidden.astype(state.hidden.dtype), cell)

    def __call__(self, x: Float[Array, "*B E"], state: LSTMState) -> LSTMState:
        return self.advance(self.input(x), state)


def keep_where(mask: Bool[Array, "*B"], new: LSTMState, old: LSTMState) -> LSTMState:
    """`new` where `mask` is True, else `old`: a padded token leaves no trace."""
    return jax.tree.map(lambda a, b: jnp.where(mask[..., None], a, b), new, old)


def lstm(
    cell: LSTMCell,
    x: Float[Array, "B T E"],
    state: LSTMState,
    mask: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], LSTMState]:
    """Run a cell over time: what it says at every step, and its last state.

    The inputs are projected for all steps at once; only the hidden projection is in the loop.

    Args:
      mask: False at padding, on either side; there the state stays as it was.
    """

    def body(state: LSTMState, step: tuple[Array, Array | None]) -> tuple[LSTMState, Array]:
        gates, real = step
        new = cell.advance(gates, state)
        if real is not None:
            new = keep_where(real, new, state)
        return new, new.hidden

    gates = jnp.swapaxes(cell.input(x), 0, 1)  # [T, B, 4D]
    state, hidden = jax.lax.scan(body, state, (gates, None if mask is None else mask.T))
    return jnp.swapaxes(hidden, 0, 1), state
