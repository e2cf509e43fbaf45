"""A reader goes on to other writing: from printed text to 2,000 strings of handwritten digits, with its tokenizer.

Command: `python train.py --config configs/finetune_reader.py --init runs/text_lines`
Cost: 511,069 parameters, 1,500 steps of 32; 109 s on two CPU cores.
Score: 90.5 % [89.1, 91.7] of 2,000 held-out strings right as a whole (seed 0); from another training of the reader
85.2 %, where random numbers (`--init.new '.*'`) gave 31.8 %, and 41.6 % if those also learn short strings first
(`--data.curriculum_steps 500`).

Another tokenizer may need more room: `--data.max_length 12 --generation.max_length 12`.
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
        data=init.data(
            "digit_strings", train_split="train[:2000]", image_size=(32, 128), fill=0, max_length=8
        ),
        train=TrainConfig(
            steps=1500, batch_size=32, label_smoothing=0.05, ema_decay=0.99, log_every=50, eval_every=500
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=50, weight_decay=0.05, clip_norm=1.0, beta2=0.99
        ),
        generation=replace(init.generation, max_length=8),
    )
