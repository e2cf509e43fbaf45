"""A Transformer encoder over token ids."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vitjax.nn.attention import padding_mask
from vitjax.nn.blocks import EncoderBlock
from vitjax.nn.embeddings import PositionKind, TokenEmbedding
from vitjax.nn.norms import make_norm
from vitjax.nn.positions import rotary
from vitjax.nn.regularization import dropout, split_key
from vitjax.nn.sequence import SequenceConfig, SequenceEmbedding
from vitjax.nn.stack import run_blocks, stack_blocks


@dataclass(frozen=True)
class TextEncoderConfig(SequenceConfig):
    """A text encoder."""

    positions: PositionKind = "sinusoidal"
    scale_embedding: bool = True
    kind: Literal["text_encoder"] = "text_encoder"

    @property
    def output_width(self) -> int:
        """Features of the vectors a decoder attends to."""
        return self.transformer.width

    def build(self, *, own_tokens: bool = True, rngs: nnx.Rngs) -> "TextEncoder":
        return TextEncoder(self, own_tokens=own_tokens, rngs=rngs)


class TextEncoder(nnx.Module):
    """The encoder of Vaswani et al. (2017), with the variations of `TransformerConfig`.

    Args:
      own_tokens: have token vectors; otherwise each call brings them.
    """

    def __init__(self, config: TextEncoderConfig, *, own_tokens: bool = True, rngs: nnx.Rngs):
        t = config.transformer
        self.embedding = SequenceEmbedding(config, own_tokens=own_tokens, rngs=rngs)
        if config.positions == "relative":
            self.relative_bias = config.relative_bias(bidirectional=True, rngs=rngs)
        self.blocks = stack_blocks(lambda r: EncoderBlock(t, rngs=r), t.depth, rngs=rngs)
        if t.norm_position == "pre":
            self.norm = make_norm(t.norm, t.width, epsilon=t.norm_epsilon, dtype=t.dtype, rngs=rngs)
        self.config = config

    def encode(
        self,
        source: Int[Array, "B S"],
        *,
        source_mask: Bool[Array, "B S"] | None = None,
        embedding: TokenEmbedding | None = None,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"] | None]:
        """Token vectors and the mask (True = real) they came with. Padding must be on the right.

        Args:
          embedding: token vectors to read in the place of its own.
        """
        config, t = self.config, self.config.transformer
        key_embed, key_blocks = split_key(key, 2)
        positions = jnp.arange(source.shape[1])[None]
        x = self.embedding(source, positions, embedding=embedding, train=train)
        x = dropout(x, t.dropout, train=train, key=key_embed)
        options: dict[str, Any] = {}
        if source_mask is not None:
            options["mask"] = padding_mask(source_mask)
        if config.positions == "relative":
            options["bias"] = self.relative_bias(positions[0], positions[0])
        elif config.positions == "rotary":
            options["rotation"] = rotary(positions, t.head_width)
        x = run_blocks(
            self.blocks, x, config=t, train=train, key=key_blocks, return_weights=False, **options
        ).x
        return (self.norm(x, train=train) if t.norm_position == "pre" else x), source_mask
