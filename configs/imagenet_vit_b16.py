"""ImageNet-1k with ViT-B/16 in the way of DeiT-III (Touvron, Cord and Jegou 2022): class token, layer scale, stochastic
depth, 3-Augment, mixup 0.8 and cutmix 1.0 under binary cross-entropy. DeiT-III's LAMB is AdamW here, at DeiT's rate
(5e-4 for 512 images).

Command: `python train.py --config configs/imagenet_vit_b16.py --mesh data=-1,fsdp=8` on every process of a pod.
Cost: 250,227 steps of 2,048 images (400 epochs), 17.6 GFLOPs forward an image: about 2.7e19 FLOPs.
Score: DeiT-III reports 83.5 % top-1 for 400 epochs (with LAMB). Not yet run here beyond two generated batches, which
tests/configs/test_configs.py trains on.
"""

from vitjax.data.config import Augment, DataConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.training.config import Config, TrainConfig
from vitjax.training.mixing import MixingConfig
from vitjax.training.optimizer import OptimizerConfig

TRAIN_IMAGES = 1_281_167
BATCH = 2048


def get_config() -> Config:
    return Config(
        name="imagenet_vit_b16",
        model=VisionTransformerConfig.standard(
            "B/16",
            num_classes=1000,
            class_token=True,
            pooling="cls",
            transformer={
                "dtype": "bfloat16",
                "layer_scale": 1e-4,
                "stochastic_depth": 0.1,
                "remat": "dots",
            },
        ),
        data=DataConfig(
            name="imagenet2012",
            eval_split="validation",
            image_size=(224, 224),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            resize="crop",
            fill=128,
            interpolation="bicubic",
            augment=Augment(crop="random_resized", flip=True, three_augment=True, color_jitter=0.3),
            workers=16,
        ),
        train=TrainConfig(
            steps=400 * TRAIN_IMAGES // BATCH,
            batch_size=BATCH,
            loss="sigmoid",
            ema_decay=0.9999,
            eval_every=10_000,
            save_every=2_500,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, warmup_steps=5 * TRAIN_IMAGES // BATCH, weight_decay=0.05, clip_norm=1.0
        ),
        mixing=MixingConfig(mixup=0.8, cutmix=1.0),
    )
