"""Recurrent cells with their state outside: long short-term memory and plain; and the loop over time."""

from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

State = TypeVar("State", bound=tuple)


@runtime_checkable
class Cell(Protocol[State]):
    """What `recur` runs: a projection of the inputs, and a step from what it gives to the next state.

    The first part of a state is `hidden`, what the cell says.
    """

    input: nnx.Linear

    def advance(self, gates: Array, state: State) -> State: ...


class LSTMState(NamedTuple):
    """`hidden` [..., D]: what the cell says, in the compute dtype; `cell` [..., D]: what it keeps, in float32."""

    hidden: Array
    cell: Array


class Gates(NamedTuple):
    """What one step of an LSTM does, each [..., D] in float32 and in (0, 1), `candidate` in (-1, 1).

    Attributes:
      enter: how much of the candidate enters the memory.
      forget: how much of the memory stays, in spite of its name.
      candidate: what may enter.
      leave: how much of the memory is said.
    """

    enter: Array
    forget: Array
    candidate: Array
    leave: Array


def _orthogonal_gates(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Array:
    """An orthogonal matrix for each of the four gates (Saxe et al. 2014)."""
    width = shape[0]
    gates = [nnx.initializers.orthogonal()(k, (width, width), dtype) for k in jax.random.split(key, 4)]
    return jnp.concatenate(gates, axis=-1)


def _remembering(forget_bias: float, key: Array, shape: tuple[int], dtype: DTypeLike) -> Array:
    """Biases of the gates: 0 for all but the forget gate."""
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(forget_bias)


class LSTMCell(nnx.Module):
    """An LSTM cell (Hochreiter and Schmidhuber 1997) with forget gate (Gers et al. 2000).

    Gates lie in the order input, forget, candidate, output (PyTorch's) along the 4D outputs of `input` and `hidden`.

    Args:
      forget_bias: start of the forget gate's bias; at 1 a new cell remembers for a few steps (Jozefowicz et al. 2015),
        at log(T) for about T (Tallec and Ollivier 2018).
    """

    def __init__(
        self,
        input_width: int,
        width: int,
        *,
        forget_bias: float = 1.0,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        common: dict[str, Any] = dict(dtype=jnp.dtype(dtype), param_dtype=jnp.float32, rngs=rngs)
        self.input = nnx.Linear(
            input_width, 4 * width, bias_init=partial(_remembering, forget_bias), **common
        )
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
        enter, forget, candidate, leave = self.gates(gates, state)
        cell = forget * state.cell + enter * candidate
        return LSTMState((leave * jnp.tanh(cell)).astype(state.hidden.dtype), cell)

    def gates(self, gates: Float[Array, "*B G"], state: LSTMState) -> Gates:
        """The gates of the step that `advance` does with these arguments."""
        gates = (gates + self.hidden(state.hidden)).astype(jnp.float32)
        enter, forget, candidate, leave = jnp.split(gates, 4, axis=-1)  # [..., D] each
        return Gates(
            jax.nn.sigmoid(enter), jax.nn.sigmoid(forget), jnp.tanh(candidate), jax.nn.sigmoid(leave)
        )

    def __call__(self, x: Float[Array, "*B E"], state: LSTMState) -> LSTMState:
        return self.advance(self.input(x), state)


class RNNState(NamedTuple):
    """`hidden` [..., D]: what the cell says is all it keeps."""

    hidden: Array


class RNNCell(nnx.Module):
    """A plain recurrent cell (Elman 1990): the next state is tanh(input + U state), U orthogonal at first."""

    def __init__(self, input_width: int, width: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        common: dict[str, Any] = dict(dtype=jnp.dtype(dtype), param_dtype=jnp.float32, rngs=rngs)
        self.input = nnx.Linear(input_width, width, **common)
        self.hidden = nnx.Linear(
            width, width, use_bias=False, kernel_init=nnx.initializers.orthogonal(), **common
        )
        self.width = width
        self.dtype = dtype

    def initial_state(self, *batch: int) -> RNNState:
        """Zeros for a batch of any shape."""
        return RNNState(jnp.zeros((*batch, self.width), self.dtype))

    def advance(self, gates: Float[Array, "*B D"], state: RNNState) -> RNNState:
        """One step from what the inputs give."""
        return RNNState(jnp.tanh(gates + self.hidden(state.hidden)))

    def __call__(self, x: Float[Array, "*B E"], state: RNNState) -> RNNState:
        return self.advance(self.input(x), state)


def keep_where(mask: Bool[Array, "*B"], new: State, old: State) -> State:
    """`new` where `mask` is True, else `old`: a padded token leaves no trace."""
    return jax.tree.map(lambda a, b: jnp.where(mask[..., None], a, b), new, old)


def recur(
    cell: Cell[State],
    x: Float[Array, "B T E"],
    state: State,
    mask: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], State]:
    """Run a cell over time: what it says at every step, and its last state.

    The inputs are projected for all steps at once; only the hidden projection is in the loop.

    Args:
      mask: False at padding, on either side; there the state stays as it was.
    """

    def body(state: State, step: tuple[Array, Array | None]) -> tuple[State, Array]:
        gates, real = step
        new = cell.advance(gates, state)
        if real is not None:
            new = keep_where(real, new, state)
        return new, new[0]

    gates = jnp.swapaxes(cell.input(x), 0, 1)  # [T, B, G]
    state, hidden = jax.lax.scan(body, state, (gates, None if mask is None else mask.T))
    return jnp.swapaxes(hidden, 0, 1), state
