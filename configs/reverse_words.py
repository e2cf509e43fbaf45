"""Words in reverse order, text to text, with the Transformer as first published: post-norm, sinusoids, ReLU.

Command: `python train.py --config configs/reverse_words.py`
Cost: 670,208 parameters, 3,000 steps of 64; 518 s on two shared CPU cores.
Score: 99.9 % [99.4, 100] of 1,000 held-out sentences right as a whole (seed 0).
"""

from vitjax.data.config import DataConfig
from vitjax.decoding.config import GenerationConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.training.config import Config, TrainConfig
from vitjax.training.optimizer import OptimizerConfig


def get_config() -> Config:
    transformer = TransformerConfig(
        width=128, depth=2, num_heads=4, feed_forward_width=256, norm_position="post", activation="relu"
    )
    return Config(
        name="reverse_words",
        model=EncoderDecoderConfig(
            encoder=TextEncoderConfig(transformer, vocabulary_size=30, max_length=32),
            decoder=DecoderConfig(
                transformer,
                vocabulary_size=30,
                max_length=32,
                positions="sinusoidal",
                scale_embedding=True,
                tie_embeddings=True,
            ),
        ),
        data=DataConfig(name="reverse_words", max_length=32),
        train=TrainConfig(
            steps=3000, batch_size=64, label_smoothing=0.1, ema_decay=0.998, log_every=100, eval_every=1000
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule="rsqrt", warmup_steps=400, rsqrt_timescale=400, beta2=0.98
        ),
        generation=GenerationConfig(
            max_length=32, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0, num_beams=1
        ),
    )
