"""What stands between a decoder's last vector and the scores of its tokens."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.feedforward import Activation, activation_function
from vitjax.nn.norms import make_norm


class HeadTransform(nnx.Module):
    """`norm(activation(dense(x)))`, the layer before BERT's masked-token head (Devlin et al. 2019)."""

    def __init__(self, config: TransformerConfig, activation: Activation, *, rngs: nnx.Rngs):
        self.dense = nnx.Linear(
            config.width, config.width, dtype=jnp.dtype(config.dtype), param_dtype=jnp.float32, rngs=rngs
        )
        self.norm = make_norm(
            config.norm, config.width, epsilon=config.norm_epsilon, dtype=config.dtype, rngs=rngs
        )
        self.activation = activation

    def __call__(self, x: Float[Array, "... D"], *, train: bool) -> Float[Array, "... D"]:
        return self.norm(activation_function(self.activation)(self.dense(x)), train=train)
