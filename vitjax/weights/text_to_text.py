"""What the families that read and write text have in common."""

from typing import NamedTuple

from vitjax.models.config import ModelConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig

TOKENS = "decoder/embedding/tokens/embedding"
"""Path of the token vectors, where both sides read the same."""

SHARED = {f"{side}coder.embed_tokens.weight": "shared.weight" for side in ("en", "de")}
"""Names under which old files hold them again."""


class Sides(NamedTuple):
    """The two sides of a model, and whether they read the same token vectors."""

    encoder: TextEncoderConfig
    decoder: DecoderConfig
    shared: bool


def sides(config: ModelConfig, name: str) -> Sides:
    """The sides of a model; ValueError if it does not read text, or does not write it."""
    if isinstance(config, EncoderDecoderConfig) and isinstance(config.encoder, TextEncoderConfig):
        return Sides(config.encoder, config.decoder, config.share_embeddings)
    raise ValueError(f"{name} reads and writes text")
