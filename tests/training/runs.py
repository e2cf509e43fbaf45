"""Small runs for the tests of training: configs that compile in a second or two, and batches of noise."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from vitjax.data.config import DataConfig
from vitjax.decoding.config import GenerationConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.resnet import ResNetConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training.config import Config, TrainConfig
from vitjax.training.optimizer import OptimizerConfig
from vitjax.training.state import init_state, make_setup
from vitjax.training.step import make_train_step
from vitjax.training.tasks import batch_shapes, is_classifier, reads_images

TRANSFORMER = TransformerConfig(width=32, depth=2, num_heads=8, feed_forward_width=64)
DIGITS = DataConfig("digits", image_size=(8, 8), channels=1)
TRAIN = TrainConfig(steps=8, batch_size=16, log_every=4, eval_every=8, save_every=4)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, weight_decay=0.01, clip_norm=1.0)


def classifier(transformer: TransformerConfig = TRANSFORMER, **train: Any) -> Config:
    model = VisionTransformerConfig(transformer, (8, 8), (2, 2), num_classes=10, channels=1)
    return Config("classifier", model, DIGITS, dataclasses.replace(TRAIN, **train), OPTIMIZER)


def residual(**train: Any) -> Config:
    model = ResNetConfig((1, 1), (8, 16), stem="small", channels=1, num_classes=10)
    return Config("residual", model, DIGITS, dataclasses.replace(TRAIN, **train), OPTIMIZER)


def transcriber(transformer: TransformerConfig = TRANSFORMER, **train: Any) -> Config:
    encoder = VisionTransformerConfig(transformer, (16, 64), (16, 8), channels=1, pooling="none")
    model = EncoderDecoderConfig(encoder, DecoderConfig(transformer, vocabulary_size=13, max_length=8))
    data = DataConfig("digit_strings", image_size=(16, 64), channels=1, max_length=8)
    generation = GenerationConfig(max_length=8, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)
    return Config(
        "transcriber", model, data, dataclasses.replace(TRAIN, **train), OPTIMIZER, generation=generation
    )


def translator(**train: Any) -> Config:
    encoder = TextEncoderConfig(TRANSFORMER, vocabulary_size=30, max_length=32)
    decoder = DecoderConfig(TRANSFORMER, vocabulary_size=30, max_length=32, tie_embeddings=True)
    data = DataConfig("reverse_words", max_length=32)
    return Config(
        "translator",
        EncoderDecoderConfig(encoder, decoder),
        data,
        dataclasses.replace(TRAIN, **train),
        OPTIMIZER,
    )


def noise(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of random pixels and labels."""
    rng = np.random.default_rng(seed)
    batch = {}
    for name, shape in batch_shapes(config).items():
        if name == "image":
            batch[name] = rng.integers(0, 256, shape.shape, np.uint8)
        elif name == "label":
            batch[name] = rng.integers(0, config.model.num_classes, shape.shape).astype(np.int32)
        elif name == "source_mask":
            batch[name] = np.arange(shape.shape[1]) < rng.integers(1, shape.shape[1] + 1, (shape.shape[0], 1))
        else:
            batch[name] = rng.integers(3, 13, shape.shape).astype(np.int32)
    if not is_classifier(config):
        lengths = rng.integers(1, batch["tokens"].shape[1] - 1, (config.train.batch_size, 1))
        places = np.arange(batch["tokens"].shape[1])
        batch["tokens"] = np.where(places <= lengths, batch["tokens"], 0)
        batch["tokens"] = np.where(places == lengths + 1, 2, batch["tokens"]).astype(np.int32)
        batch["tokens"][:, 0] = 1
    assert reads_images(config.model) == ("image" in batch)
    return batch


def train(config: Config, mesh: str = "data=1", steps: int = 3, seed: int = 0, batch=None):
    """`(state, metrics of each step)` after some steps on noise, on as many of the fake devices as the mesh takes."""
    if batch is None:
        return _on_noise(config, mesh, steps, seed)
    return _train(config, mesh, [batch] * steps)


@functools.lru_cache(maxsize=8)
def _on_noise(config: Config, mesh: str, steps: int, seed: int):
    return _train(config, mesh, [noise(config, seed + step) for step in range(steps)])


def _train(config: Config, mesh: str, batches: list):
    fresh, update = _compiled(config, mesh)
    # a copy, for each update takes its state's memory
    state = jax.device_put(fresh, jax.tree.map(lambda leaf: leaf.sharding, fresh), may_alias=False)
    metrics = []
    for batch in batches:
        state, new = update(state, batch)
        metrics.append(jax.device_get(new))
    return state, metrics


@functools.lru_cache(maxsize=8)
def _compiled(config: Config, mesh: str):
    """A fresh state and the step that updates it."""
    mesh_config = MeshConfig.parse(mesh)
    grid = make_mesh(mesh_config, jax.devices()[: mesh_config.devices_needed])
    setup = make_setup(config, grid)
    return init_state(setup), make_train_step(setup, grid)
