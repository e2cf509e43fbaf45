"""Encoder-decoder Transformers: image to text and text to text."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vitjax.models.decoder import DecoderConfig, DecoderOutput, TransformerDecoder
from vitjax.models.resnet import ResNetConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.cache import CacheDtype, DecoderCache
from vitjax.nn.regularization import split_key


class Encoded(NamedTuple):
    """What a decoder attends to: `tokens` [B, S, D] and `mask` [B, S], True where real, or None."""

    tokens: Array
    mask: Array | None


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """An encoder of images or text, and a Transformer decoder that attends to what it says.

    Attributes:
      share_embeddings: read text with the decoder's token vectors (Vaswani et al. 2017, 3.4).
    """

    encoder: VisionTransformerConfig | ResNetConfig | TextEncoderConfig
    decoder: DecoderConfig
    share_embeddings: bool = False
    kind: Literal["encoder_decoder"] = "encoder_decoder"

    def __post_init__(self):
        if not self.share_embeddings:
            return
        if not isinstance(self.encoder, TextEncoderConfig):
            raise ValueError("share_embeddings needs an encoder of text: this one reads images")
        tables = [(part.vocabulary_size, part.token_width) for part in (self.encoder, self.decoder)]
        if tables[0] != tables[1]:
            raise ValueError(
                f"share_embeddings needs one table of token vectors: the encoder's is {tables[0]}, the decoder's "
                f"{tables[1]}"
            )

    @property
    def vocabulary_size(self) -> int:
        return self.decoder.vocabulary_size

    def build(self, *, rngs: nnx.Rngs) -> "EncoderDecoder":
        return EncoderDecoder(self, rngs=rngs)


class EncoderDecoder(nnx.Module):
    """The Transformer (Vaswani et al. 2017); with an image encoder, the form of TrOCR (Li et al. 2021).

    `source` is float images [B, H, W, channels], normalised, or int tokens [B, S] with a `source_mask`.
    """

    def __init__(self, config: EncoderDecoderConfig, *, rngs: nnx.Rngs):
        options: dict[str, Any] = {"own_tokens": False} if config.share_embeddings else {}
        self.encoder = config.encoder.build(**options, rngs=rngs)
        self.decoder = TransformerDecoder(
            config.decoder, context_width=config.encoder.output_width, rngs=rngs
        )
        self.config = config

    @property
    def max_source_length(self) -> int | None:
        encoder = self.config.encoder
        if isinstance(encoder, TextEncoderConfig) and encoder.positions == "learned":
            return encoder.max_length
        return None

    @property
    def max_target_length(self) -> int | None:
        decoder = self.config.decoder
        return decoder.max_length if decoder.positions == "learned" else None

    def encode(
        self,
        source: Array,
        *,
        source_mask: Bool[Array, "B S"] | None = None,
        train: bool,
        key: Array | None = None,
    ) -> Encoded:
        shared: dict[str, Any] = (
            {"embedding": self.decoder.embedding.tokens} if self.config.share_embeddings else {}
        )
        return Encoded(*self.encoder.encode(source, source_mask=source_mask, train=train, key=key, **shared))

    def decode(
        self,
        encoded: Encoded,
        decoder_tokens: Int[Array, "B T"],
        *,
        decoder_mask: Bool[Array, "B T"] | None = None,
        parallel: bool | Bool[Array, " B"] = False,
        train: bool,
        key: Array | None = None,
        return_attention: bool = False,
    ) -> DecoderOutput:
        """Logits of every next token, and where the decoder looked; `parallel` is that of `TransformerDecoder`."""
        return self.decoder(
            decoder_tokens,
            encoded.tokens,
            mask=decoder_mask,
            parallel=parallel,
            context_mask=encoded.mask,
            train=train,
            key=key,
            return_attention=return_attention,
        )

    def __call__(
        self,
        source: Array,
        decoder_tokens: Int[Array, "B T"],
        *,
        source_mask: Bool[Array, "B S"] | None = None,
        parallel: bool | Bool[Array, " B"] = False,
        train: bool,
        key: Array | None = None,
    ) -> Float[Array, "B T V"]:
        key_encoder, key_decoder = split_key(key, 2)
        encoded = self.encode(source, source_mask=source_mask, train=train, key=key_encoder)
        return self.decode(encoded, decoder_tokens, parallel=parallel, train=train, key=key_decoder).logits

    def prepared(self) -> "EncoderDecoder":
        model = nnx.clone(self)
        model.decoder = self.decoder.prepared()
        return model

    def init_cache(
        self,
        encoded: Encoded,
        *,
        num_beams: int,
        max_length: int,
        dtype: CacheDtype | None = None,
        beam_axis: str | None = None,
    ) -> DecoderCache:
        return self.decoder.init_cache(
            encoded.tokens,
            encoded.mask,
            num_beams=num_beams,
            max_length=max_length,
            dtype=dtype,
            beam_axis=beam_axis,
        )

    def prefill(
        self, cache: DecoderCache, prompt: Int[Array, "B T"], prompt_mask: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B V"], DecoderCache]:
        return self.decoder.prefill(cache, prompt, prompt_mask)

    def step(
        self, cache: DecoderCache, tokens: Int[Array, "B K"]
    ) -> tuple[Float[Array, "B K V"], DecoderCache]:
        return self.decoder.step(cache, tokens)

    def extend(
        self, cache: DecoderCache, tokens: Int[Array, "B K T"]
    ) -> tuple[Float[Array, "B K T V"], DecoderCache]:
        return self.decoder.extend(cache, tokens)
