"""Strings of handwritten digits: the image-to-text Transformer of `make demo`."""

from vitjax.data.config import DataConfig
from vitjax.decoding.config import GenerationConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.training.config import Config, TrainConfig
from vitjax.training.optimizer import OptimizerConfig


def get_config() -> Config:
    width = 64
    return Config(
        name="digit_strings",
        model=EncoderDecoderConfig(
            encoder=VisionTransformerConfig(
                TransformerConfig(width, 3, 4, 2 * width),
                image_size=(16, 64),
                patch_size=(16, 8),
                patch_stride=(16, 4),
                channels=1,
                pooling="none",
            ),
            decoder=DecoderConfig(
                TransformerConfig(width, 2, 4, 2 * width), vocabulary_size=13, max_length=8
            ),
        ),
        data=DataConfig(name="digit_strings", image_size=(16, 64), channels=1, max_length=8),
        train=TrainConfig(steps=300, batch_size=64, ema_decay=0.999, eval_every=100, save_every=100),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50, clip_norm=1.0),
        generation=GenerationConfig(
            max_length=8, eos_token_id=2, pad_token_id=0, decoder_start_token_id=1, num_beams=1
        ),
    )
