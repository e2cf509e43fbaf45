"""A classifier out of a checkpoint: a new head, layer-wise learning rates, every parameter trained.

It starts from whatever `vitjax.load` reads; of a model that writes text it takes the encoder. Measured from the reader
of printed text, `configs/text_lines.py`, which learns handwritten digits from 100 of them.

Command: `python train.py --config configs/finetune.py --init runs/text_lines`
Cost: 272,538 parameters, 500 steps of 50; 19 s on four shared CPU cores.
Score: 92.5 % [89.3, 94.8] of the 360 test digits (seed 0; 92.2 and 93.9 with seeds 1 and 2). docs/recipes.md has LoRA,
the head alone, and random numbers, which with 2,000 steps do as well: this data says that it works, not that it pays.

Only a new head: `--train.freeze 'patch_embedding/.*' 'blocks/.*' 'norm/.*' --optimizer.layer_decay 1`.
LoRA: `--lora.rank 8 --lora.patterns 'blocks/.*' --optimizer.layer_decay 1 --optimizer.learning_rate 1e-2`.
Another dataset: `--data.name NAME --model.num_classes N --data.train_split train`.
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
            resize="stretch",
            fill=0,
            augment=Augment(rotation=12.0, shear=0.15, scale=0.15, shift=side / 16, intensity=0.15),
        ),
        train=TrainConfig(
            steps=500, batch_size=50, label_smoothing=0.1, ema_decay=0.99, log_every=50, eval_every=250
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            warmup_steps=50,
            weight_decay=0.05,
            layer_decay=0.75,
            clip_norm=1.0,
            beta2=0.99,
        ),
    )
