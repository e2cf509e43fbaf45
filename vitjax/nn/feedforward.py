"""Position-wise feed-forward networks and their activations."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vitjax.nn.regularization import dropout, split_key

Activation = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "swiglu", "geglu", "geglu_tanh"]
GATED = ("swiglu", "geglu", "geglu_tanh")


def activation_function(name: Activation) -> Callable[[Array], Array]:
    """The element-wise function behind a name.

    `gelu` is the exact one (erf; Hendrycks and Gimpel 2016), `gelu_tanh` its tanh approximation (up to 4.7e-4 apart),
    `quick_gelu` is CLIP's x * sigmoid(1.702 x). `swiglu`, `geglu` and `geglu_tanh` gate with `silu`, `gelu` and
    `gelu_tanh` (Shazeer 2020).
    """
    match name:
        case "relu":
            return jax.nn.relu
        case "gelu" | "geglu":
            return lambda x: jax.nn.gelu(x, approximate=False)
        case "gelu_tanh" | "geglu_tanh":
            return lambda x: jax.nn.gelu(x, approximate=True)
        case "quick_gelu":
            return lambda x: x * jax.nn.sigmoid(1.702 * x)
        case "silu" | "swiglu":
            return jax.nn.silu
    raise ValueError(f"activation {name!r} is not one of {', '.join(get_args(Activation))}")


class FeedForward(nnx.Module):
    """`down(activation(up(x)))`, or for the gated ones `down(activation(gate(x)) * up(x))`, on each token alone."""

    def __init__(
        self,
        width: int,
        hidden_width: int,
        *,
        activation: Activation = "gelu",
        use_bias: bool = True,
        dropout_rate: float = 0.0,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        # of a network without neurons, which adds a bias alone, xavier_uniform divides by zero (jax 0.10)
        kernel_init = nnx.initializers.xavier_uniform() if hidden_width else nnx.initializers.zeros

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                use_bias=use_bias,
                dtype=jnp.dtype(dtype),
                param_dtype=jnp.float32,
                kernel_init=kernel_init,
                rngs=rngs,
            )

        self.up = linear(width, hidden_width)
        if activation in GATED:
            self.gate = linear(width, hidden_width)
        self.down = linear(hidden_width, width)
        self.activation = activation
        self.dropout_rate = dropout_rate

    def __call__(
        self, x: Float[Array, "... D"], *, train: bool, key: Array | None = None
    ) -> Float[Array, "... D"]:
        key_hidden, key_out = split_key(key, 2)
        function = activation_function(self.activation)
        hidden = self.up(x)  # [..., F]
        hidden = function(self.gate(x)) * hidden if self.activation in GATED else function(hidden)
        hidden = dropout(hidden, self.dropout_rate, train=train, key=key_hidden)
        return dropout(self.down(hidden), self.dropout_rate, train=train, key=key_out)
