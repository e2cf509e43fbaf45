"""Strings of handwritten digits: the image-to-text Transformer of `make demo`.

Command: `python train.py --config configs/digit_strings.py`
Cost: 225,597 parameters, 5,000 steps of 64; 148 s on four CPU cores.
Score: 96.6 % [95.7, 97.3] of 2,000 held-out strings right as a whole (seed 0; docs/recipes.md).
"""

from vitjax.data.config import DataConfig
from vitjax.decoding.config import GenerationConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.training.config import Config, TrainConfig
from vitjax.training.optimizer import OptimizerConfig


def get_config() -> Config:
    transformer = TransformerConfig(width=64, depth=2, num_heads=4, feed_forward_width=128)
    return Config(
        name="digit_strings",
        model=EncoderDecoderConfig(
            encoder=VisionTransformerConfig(
                transformer,
                image_size=(16, 64),
                channels=1,
                stem_widths=(16, 32, 64),
                stem_strides=(1, 2, 2),
                patch_size=(4, 2),
                patch_stride=(4, 1),
                positions="sinusoidal",
                pooling="none",
            ),
            decoder=DecoderConfig(
                transformer, vocabulary_size=13, max_length=8, positions="sinusoidal", scale_embedding=True
            ),
        ),
        data=DataConfig(
            name="digit_strings",
            image_size=(16, 64),
            channels=1,
            mean=(0.0,),
            std=(0.3,),
            max_length=8,
            curriculum_steps=900,
        ),
        train=TrainConfig(
            steps=5000,
            batch_size=64,
            label_smoothing=0.05,
            ema_decay=0.998,
            log_every=100,
            eval_every=1000,
            save_every=1000,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, warmup_steps=200, weight_decay=0.05, clip_norm=1.0, beta2=0.99
        ),
        generation=GenerationConfig(
            max_length=8, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0, num_beams=1
        ),
    )
