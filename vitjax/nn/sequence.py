"""From token ids to the vectors that a stack of blocks reads: what text encoders and decoders have in common."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import Combination, PositionKind, TokenEmbedding, combine
from vitjax.nn.norms import make_norm
from vitjax.nn.positions import LearnedPositions, RelativeBias, Sinusoid, sinusoidal


@dataclass(frozen=True)
class SequenceConfig:
    """A stack of blocks over token ids.

    Attributes:
      max_length: longest sequence that learned positions are made for; a decoder's prompt counts.
      positions: `sinusoidal` and `learned` are given to the token vectors; `relative` and `rotary` act in attention.
      embedding_combination: `concat` gives half of the features to the positions.
      scale_embedding: multiply token vectors by sqrt(D) (Vaswani et al. 2017, 3.4), so that they stand up to sinusoids.
      embedding_norm: normalise the vectors that enter the first block (BERT, Devlin et al. 2019).
      token_types: number of vectors for kinds of token (BERT's segments). Every token here is of the first kind.
      position_offset: place of the first token; the table of learned positions has as many more rows.
      padding_token: a token that has no place, whatever others it stands between: of learned positions it gets the row
        before the first token's, of sinusoids nothing (fairseq). None: every token has one.
      sinusoid: layout of sinusoidal positions, see `Sinusoid`.
      relative_buckets, relative_distance: buckets of `relative` positions, and where the last begins.
    """

    transformer: TransformerConfig
    vocabulary_size: int
    max_length: int
    positions: PositionKind = "learned"
    embedding_combination: Combination = "add"
    scale_embedding: bool = False
    embedding_norm: bool = False
    token_types: int = 0
    position_offset: int = 0
    padding_token: int | None = None
    sinusoid: Sinusoid = "interleaved"
    relative_buckets: int = 32
    relative_distance: int = 128

    def __post_init__(self):
        if self.padding_token is not None and self.positions == "learned" and not self.position_offset:
            raise ValueError(
                "padding_token needs position_offset 1 or more: it reads the learned position before the first token's"
            )

    @property
    def token_width(self) -> int:
        """Features of a token's own vector."""
        return self.transformer.width - (self.position_width if self._concatenates else 0)

    @property
    def position_width(self) -> int:
        """Features of a position's vector."""
        return self.transformer.width // 2 if self._concatenates else self.transformer.width

    @property
    def _concatenates(self) -> bool:
        return self.embedding_combination == "concat" and self.positions in ("sinusoidal", "learned")

    def relative_bias(self, *, bidirectional: bool, rngs: nnx.Rngs) -> RelativeBias:
        """The bias that all blocks share where positions are `relative`."""
        return RelativeBias(
            self.transformer.num_heads,
            bidirectional=bidirectional,
            num_buckets=self.relative_buckets,
            max_distance=self.relative_distance,
            rngs=rngs,
        )


class SequenceEmbedding(nnx.Module):
    """Token vectors with their places in the sequence.

    Args:
      own_tokens: have token vectors; otherwise each call brings them.
      mask_token: have one more vector, of no token, that rows can read in the place of theirs.
    """

    def __init__(
        self, config: SequenceConfig, *, own_tokens: bool = True, mask_token: bool = False, rngs: nnx.Rngs
    ):
        t = config.transformer
        if own_tokens:
            self.tokens = TokenEmbedding(config.vocabulary_size, config.token_width, dtype=t.dtype, rngs=rngs)
        if config.positions == "learned":
            rows = config.position_offset + config.max_length
            self.positions = LearnedPositions((1, rows), config.position_width, rngs=rngs)
        if mask_token:
            initializer = nnx.initializers.normal(config.token_width**-0.5)
            self.mask_token = nnx.Param(initializer(rngs.params(), (config.token_width,)))
        if config.token_types:
            self.token_types = TokenEmbedding(
                config.token_types, config.token_width, dtype=t.dtype, rngs=rngs
            )
        if config.embedding_norm:
            self.norm = make_norm(t.norm, t.width, epsilon=t.norm_epsilon, dtype=t.dtype, rngs=rngs)
        self.scale = config.token_width**0.5 if config.scale_embedding else 1.0
        self.config = config

    def __call__(
        self,
        tokens: Int[Array, "B N"],
        positions: Int[Array, "#B N"],
        *,
        embedding: TokenEmbedding | None = None,
        masked: Bool[Array, " B"] | None = None,
        train: bool,
    ) -> Float[Array, "B N D"]:
        """Vectors of tokens that stand at `positions`, counted from 0.

        Args:
          embedding: token vectors to read in the place of its own.
          masked: rows that show the mask token in every place and none of their tokens.
        """
        x = (self.tokens if embedding is None else embedding)(tokens)
        if masked is not None:
            x = jnp.where(masked[:, None, None], self.mask_token[...].astype(x.dtype), x)
        x = x * self.scale
        if self.config.token_types:
            x = x + self.token_types(jnp.zeros((1, 1), jnp.int32))
        if self.config.positions in ("learned", "sinusoidal"):
            x = combine(x, self._placed(tokens, positions, masked), self.config.embedding_combination)
        return self.norm(x, train=train) if self.config.embedding_norm else x

    def _placed(
        self, tokens: Int[Array, "B N"], positions: Int[Array, "#B N"], masked: Bool[Array, " B"] | None
    ) -> Float[Array, "#B N E"]:
        """The vectors of places."""
        config = self.config
        unplaced = None
        if config.padding_token is not None:
            unplaced = tokens == config.padding_token
            if masked is not None:
                unplaced = unplaced & ~masked[:, None]
        positions = positions + config.position_offset
        if config.positions == "sinusoidal":
            placed = sinusoidal(positions, config.position_width, config.sinusoid)
            return placed if unplaced is None else jnp.where(unplaced[..., None], 0.0, placed)
        if tokens.shape[1] > config.max_length:
            raise ValueError(
                f"{tokens.shape[1]} tokens are beyond the {config.max_length} learned positions: raise max_length "
                "in the config, or shorten the input"
            )
        if unplaced is not None:
            positions = jnp.where(unplaced, config.position_offset - 1, positions)
        return self.positions.at(positions)
