"""The models there are, and what they read."""

from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.resnet import ResNetConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig

ModelConfig = VisionTransformerConfig | ResNetConfig | EncoderDecoderConfig | ShowAttendTellConfig
CLASSIFIERS = (VisionTransformerConfig, ResNetConfig)


def reads_images(model: ModelConfig) -> bool:
    """Whether the model's source is an image; otherwise it is text."""
    return not (isinstance(model, EncoderDecoderConfig) and isinstance(model.encoder, TextEncoderConfig))


def image_encoder(model: ModelConfig) -> VisionTransformerConfig | ResNetConfig:
    """The part of a model that reads images: an encoder, or the whole classifier."""
    encoder = model if isinstance(model, CLASSIFIERS) else model.encoder
    if isinstance(encoder, TextEncoderConfig):
        raise ValueError("this model reads text, not images")
    return encoder


def text_encoder(model: ModelConfig) -> TextEncoderConfig:
    """The part of a model that reads text."""
    encoder = None if isinstance(model, CLASSIFIERS) else model.encoder
    if not isinstance(encoder, TextEncoderConfig):
        raise ValueError("this model reads images, not text")
    return encoder
