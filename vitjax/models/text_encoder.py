"""A Transformer encoder over token ids."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vitjax.nn.attention import padding_mask
from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.embeddings import Combination, PositionKind, SequenceEmbedding
from vitjax.nn.norms import make_norm
from vitjax.nn.positions import RelativeBias, rotary
from vitjax.nn.regularization import dropout, split_key
from vitjax.nn.stack import run_blocks, stack_blocks


@dataclass(frozen=True)
class TextEncoderConfig:
    """A text encoder; see `SequenceEmbedding` for positions and their combination."""

    transformer: TransformerConfig
    vocabulary_size: int
    max_length: int
    positions: PositionKind = "sinusoidal"
    embedding_combination: Combination = "add"
    scale_embedding: bool = True
    kind: Literal["text_encoder"] = "text_encoder"

    @property
    def output_width(self) -> int:
        """Features of the vectors a decoder attends to."""
        return self.transformer.width

    def build(self, *, rngs: nnx.Rngs) -> "TextEncoder":
        return TextEncoder(self, rngs=rngs)


class TextEncoder(nnx.Module):
    """The encoder of Vaswani et al. (2017), with the variations of `TransformerConfig`."""

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
        t = config.transformer
        self.embedding = SequenceEmbedding(
            config.vocabulary_size,
            t.width,
            max_length=config.max_length,
            positions=config.positions,
            combination=config.embedding_combination,
            scale_embedding=config.scale_embedding,
            dtype=t.dtype,
            rngs=rngs,
        )
        if config.positions == "relative":
            self.relative_bias = RelativeBias(t.num_heads, bidirectional=True, rngs=rngs)
        self.blocks = stack_blocks(lambda r: EncoderBlock(t, rngs=r), t.depth, rngs=rngs)
        if t.norm_position == "pre":
            self.norm = make_norm(t.norm, t.width, epsilon=t.norm_epsilon, dtype=t.dtype, rngs=rngs)
        self.config = config

    def encode(
        self,
        source: Int[Array, "B S"],
        *,
        source_mask: Bool[Array, "B S"] | None = None,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"] | None]:
        """Token vectors and the mask (True = real) they came with. Padding must be on the right."""
        config, t = self.config, self.config.transformer
        key_embed, key_blocks = split_key(key, 2)
        positions = jnp.arange(source.shape[1])[None]
        x = dropout(self.embedding(source, positions), t.dropout, train=train, key=key_embed)
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
