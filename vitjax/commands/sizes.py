"""What a model is, in one line for people."""

from vitjax.models.config import ModelConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.resnet import ResNetConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig


def describe(config: ModelConfig | TextEncoderConfig | DecoderConfig) -> str:
    """Sizes of a model: layers, widths, heads, what it reads and what it says."""
    match config:
        case VisionTransformerConfig():
            tokens = "".join(f", {count} {name}" for name, count in config.prefix_tokens)
            return (
                f"{_blocks(config.transformer)}; {_by(config.patch_size)} patches of {_by(config.image_size)} images, "
                f"{config.channels} channels{tokens}, {config.positions} positions; {_classes(config)}"
            )
        case ResNetConfig():
            depths = ", ".join(map(str, config.depths))
            return f"stages of {depths} {config.block} blocks of {config.widths}; {_classes(config)}"
        case TextEncoderConfig():
            return f"{_blocks(config.transformer)}; {_vocabulary(config)}"
        case DecoderConfig():
            return f"{_blocks(config.transformer)}; {_vocabulary(config)}"
        case EncoderDecoderConfig():
            return f"encoder {describe(config.encoder)}; decoder {describe(config.decoder)}"
        case ShowAttendTellConfig():
            return f"encoder {describe(config.encoder)}; LSTM of {config.width}, {config.vocabulary_size:,} tokens"


def _blocks(t: TransformerConfig) -> str:
    return (
        f"{t.depth} {t.norm_position}-norm layers of width {t.width}, {t.num_heads} heads, "
        f"feed-forward {t.feed_forward_width} {t.activation}"
    )


def _vocabulary(config: TextEncoderConfig | DecoderConfig) -> str:
    longest = f" up to {config.max_length:,}" if config.positions == "learned" else ""
    return f"{config.vocabulary_size:,} tokens, {config.positions} positions{longest}"


def _classes(config: VisionTransformerConfig | ResNetConfig) -> str:
    return f"{config.num_classes:,} classes" if config.num_classes else "no head"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
