"""What a model is asked to do with a batch: name a class, or write a sequence."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from vitjax.data.preprocess import normalize
from vitjax.models.config import CLASSIFIERS, reads_images
from vitjax.nn.regularization import split_key
from vitjax.training.config import Config
from vitjax.training.losses import LossSum, sigmoid_cross_entropy, softmax_cross_entropy, token_cross_entropy
from vitjax.training.mixing import mix

Batch = dict[str, Array]


def is_classifier(config: Config) -> bool:
    """Whether the model names a class; otherwise it writes a sequence."""
    return isinstance(config.model, CLASSIFIERS)


def source_of(config: Config, batch: Batch) -> tuple[Array, Array | None]:
    """`(source, source_mask)` for the encoder: images, normalised here on the device, or tokens."""
    if "image" in batch:
        return normalize(batch["image"], config.data.mean, config.data.std), None
    return batch["source"], batch["source_mask"]


def loss_function(config: Config, model: Any, batch: Batch, *, train: bool, key: Array | None) -> LossSum:
    """The loss of a batch as a sum and a count; `mask` [B], where there is one, leaves out fillers."""
    if is_classifier(config):
        return _class_loss(config, model, batch, train=train, key=key)
    return _token_loss(config, model, batch, train=train, key=key)


def _class_loss(config: Config, model: Any, batch: Batch, *, train: bool, key: Array | None) -> LossSum:
    assert isinstance(config.model, CLASSIFIERS)
    key_mix, key_model = split_key(key, 2)
    labels = batch["label"]
    if train and config.mixing.active and key_mix is not None:
        images, labels = mix(key_mix, batch["image"], labels, config.model.num_classes, config.mixing)
        batch = {**batch, "image": images}
    logits = model(source_of(config, batch)[0], train=train, key=key_model)
    options: dict[str, Any] = dict(
        label_smoothing=config.train.label_smoothing if train else 0.0, weights=batch.get("mask")
    )
    if config.train.loss == "sigmoid":
        return sigmoid_cross_entropy(logits, labels, multi_hot=config.mixing.active, **options)
    return softmax_cross_entropy(logits, labels, **options)


def _token_loss(config: Config, model: Any, batch: Batch, *, train: bool, key: Array | None) -> LossSum:
    source, mask = source_of(config, batch)
    tokens = batch["tokens"]
    options: dict[str, Any] = {}
    if train and config.train.parallel_fraction:
        key_rows, key = split_key(key, 2)
        options["parallel"] = _drawn(config.train.parallel_fraction, len(tokens), key_rows)
    logits = model(source, tokens[:, :-1], source_mask=mask, train=train, key=key, **options)
    smoothing = config.train.label_smoothing if train else 0.0
    return token_cross_entropy(
        logits,
        tokens[:, 1:],
        stop_ids=config.generation.stop_ids,
        label_smoothing=smoothing,
        weights=batch.get("mask"),
    )


def _drawn(fraction: float, rows: int, key: Array | None) -> Bool[Array, " B"]:
    if key is None:
        raise ValueError(f"train.parallel_fraction {fraction} draws examples: pass key=jax.random.key(...)")
    return jax.random.bernoulli(key, fraction, (rows,))


def predict_classes(config: Config, model: Any, batch: Batch) -> Array:
    """The likeliest class [B]."""
    return jnp.argmax(model(source_of(config, batch)[0], train=False), axis=-1)


def batch_shapes(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a training batch, known from the config without touching data."""
    rows, length = config.train.batch_size, config.data.max_length
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
    if reads_images(config.model):
        shapes["image"] = ((rows, *config.data.image_size, config.data.channels), jnp.uint8)
    else:
        shapes |= {"source": ((rows, length), jnp.int32), "source_mask": ((rows, length), jnp.bool_)}
    if is_classifier(config):
        shapes["label"] = ((rows,), jnp.int32)
    else:
        shapes["tokens"] = ((rows, length), jnp.int32)
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}
