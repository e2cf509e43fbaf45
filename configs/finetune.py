"""A classifier from a checkpoint.

Command: `python train.py --config configs/finetune.py --init runs/text_lines`
Cost:
Score:
"""

from vitjax.data.config import Augment
from vitjax.training.config import Config, TrainConfig
from vitjax.training.optimizer import OptimizerConfig
from vitjax.training.pretrained import HEAD, Pretrained


def get_config(init: Pretrained) -> Config:
    encoder = init.encoder()
    side = min(encoder.image_size)
    return Config(
        name="finetune",
        init=encoder.start(HEAD),
        model=encoder.classifier(num_classes=10, image_size=(side, side)),
        data=encoder.data(
            "digits",
            train_split="train[:100]",
            image_size=(side, side),
            fill=0,
            augment=Augment(rotation=12.0, shear=0.15, scale=0.15, shift=2.0, intensity=0.15),
        ),
        train=TrainConfig(
            steps=500,
            batch_size=50,
            label_smoothing=0.1,
            log_every=50,
            eval_every=100,
            save_every=500,
            ema_decay=0.99,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            warmup_steps=50,
            weight_decay=0.05,
            layer_decay=0.75,
            clip_norm=1.0,
            beta2=0.99,
        ),
    )
