"""A reader of printed text learns handwriting.

Command: `python train.py --config configs/finetune_reader.py --init runs/text_lines`
Cost:
Score:
"""

from dataclasses import replace

from vitjax.training.config import Config, TrainConfig
from vitjax.training.optimizer import OptimizerConfig
from vitjax.training.pretrained import Pretrained


def get_config(init: Pretrained) -> Config:
    return Config(
        name="finetune_reader",
        init=init.start(),
        model=init.model,
        data=init.data("digit_strings", train_split="train[:200]", resize="fit", fill=0, max_length=8),
        train=TrainConfig(
            steps=600,
            batch_size=50,
            label_smoothing=0.05,
            log_every=50,
            eval_every=300,
            save_every=600,
            ema_decay=0.99,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=50, weight_decay=0.05, clip_norm=1.0, beta2=0.99
        ),
        generation=replace(init.generation, max_length=8),
    )
