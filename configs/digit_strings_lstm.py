"""Strings of handwritten digits with Show, Attend and Tell: a ResNet, and an LSTM that looks at place after place.

Command: `python train.py --config configs/digit_strings_lstm.py`
Cost: 180,222 parameters, 4,000 steps of 64; 463 s on two shared CPU cores.
Score: 87.3 % [85.7, 88.6] of 2,000 held-out strings right as a whole (seed 0).
"""

from vitjax.data.config import DataConfig
from vitjax.decoding.config import GenerationConfig
from vitjax.models.resnet import ResNetConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.training.config import Config, TrainConfig
from vitjax.training.optimizer import OptimizerConfig


def get_config() -> Config:
    return Config(
        name="digit_strings_lstm",
        model=ShowAttendTellConfig(
            encoder=ResNetConfig(depths=(1, 1, 1), widths=(16, 32, 64), stem="small", channels=1),
            vocabulary_size=13,
            width=96,
            embedding_width=32,
            attention_width=64,
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
        train=TrainConfig(steps=4000, batch_size=64, label_smoothing=0.05, ema_decay=0.998, log_every=100),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=200, weight_decay=0.05, clip_norm=1.0),
        generation=GenerationConfig(
            max_length=8, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0, num_beams=1
        ),
    )
