"""The benchmark's model in vitjax: a ViT that reads an image, a decoder that writes until it is stopped."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import decode, encode
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig

START = 1


def model_config(small: bool, max_length: int) -> EncoderDecoderConfig:
    """ViT-S/16 at 224 and a decoder of GPT-2's form, 6 layers of 256; `small` is a fraction of it."""
    if small:
        encoder = VisionTransformerConfig.standard(
            "Ti/16", image_size=(64, 64), class_token=True, pooling="none"
        )
        decoder, vocabulary = TransformerConfig(128, 2, 4, 512, activation="gelu_tanh"), 1000
    else:
        encoder = VisionTransformerConfig.standard("S/16", class_token=True, pooling="none")
        decoder, vocabulary = TransformerConfig(256, 6, 8, 1024, activation="gelu_tanh"), 8000
    return EncoderDecoderConfig(
        encoder, DecoderConfig(decoder, vocabulary, max_length=max_length, tie_embeddings=True)
    )


def with_dtype(config: EncoderDecoderConfig, dtype: str) -> EncoderDecoderConfig:
    """The same model with its arithmetic in `dtype`."""

    def cast(part: Any) -> Any:
        return replace(part, transformer=replace(part.transformer, dtype=dtype))

    return EncoderDecoderConfig(cast(config.encoder), cast(config.decoder))


def random_params(config: EncoderDecoderConfig) -> functional.Tree:
    """Fresh weights, as vitjax draws them."""
    return jax.jit(lambda key: functional.initialize(partial(_build, config), key)[0])(jax.random.key(0))


@dataclass
class Vitjax:
    """The model with these weights on `images` [B, H, W, 3], encoded once; weights are stored as the model computes."""

    config: EncoderDecoderConfig
    params: functional.Tree
    images: np.ndarray

    def __post_init__(self) -> None:
        self.definition, expected, _ = functional.abstract(partial(_build, self.config))
        if _shapes(self.params) != _shapes(expected):
            raise ValueError("the weights do not have the names and shapes of the model's parameters")
        dtype = self.config.decoder.transformer.dtype
        self.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self.params)
        self.images = jnp.asarray(self.images)
        self.encoded = self.encode()

    def encode(self) -> Any:
        return encode(self.definition, self.params, self.images)

    def generate(self, beams: int, tokens: int) -> jax.Array:
        """Token ids [B, 1 + tokens], start token first; EOS does not exist."""
        config = GenerationConfig(max_new_tokens=tokens, num_beams=beams, decoder_start_token_id=START)
        return decode(self.definition, self.params, self.encoded, config=config).tokens[:, 0]

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Logits [B, T, V] of every next token, teacher-forced."""

        @jax.jit
        def call(params: functional.Tree, encoded: Any, tokens: jax.Array) -> jax.Array:
            model = functional.merge(self.definition, params)
            return model.decode(encoded, tokens, train=False).logits

        return np.asarray(call(self.params, self.encoded, tokens))


def _build(config: EncoderDecoderConfig, rngs: nnx.Rngs) -> nnx.Module:
    return config.build(rngs=rngs)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, tree)
