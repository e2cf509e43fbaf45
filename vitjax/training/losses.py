"""Losses as sums and counts, in float32.

A sum and a count add up exactly over devices and accumulated micro-batches where means do not: gradients are taken of
`total`, and divided by the whole batch's `count` once.

A label outside the classes would train the wrong class (JAX indexes -1 as the last) or give NaN. Here such an item has
weight zero and is counted in `bad_labels`, so that the loop can stop and say so.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class LossSum:
    """Sum of the items' losses, their number (the sum of weights), and the items left out for a bad label."""

    total: Float[Array, ""]
    count: Float[Array, ""]
    bad_labels: Int[Array, ""]

    @property
    def mean(self) -> Float[Array, ""]:
        """Loss per item; 0 where nothing counts."""
        return self.total / jnp.where(self.count > 0, self.count, 1)


def softmax_cross_entropy(
    logits: Float[Array, "*batch K"],
    labels: Int[Array, "*batch"] | Float[Array, "*batch K"],
    *,
    label_smoothing: float = 0.0,
    weights: Float[Array, "*batch"] | Bool[Array, "*batch"] | None = None,
) -> LossSum:
    """Cross-entropy of the softmax over K classes; smoothing moves that share to all K evenly, as in torch.

    Soft labels need not sum to 1; a row that is not finite or leaves [0, 1] is bad.
    """
    logits = logits.astype(jnp.float32)
    logits -= jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    log_sum = jnp.log(jnp.sum(jnp.exp(logits), axis=-1))  # [*batch]
    if jnp.issubdtype(labels.dtype, jnp.integer):
        good = is_class(labels, logits.shape[-1])
        # A comparison fuses and stays local when the classes are sharded, where an index would gather the logits.
        hit = labels[..., None].astype(jnp.int32) == jnp.arange(logits.shape[-1])  # [*batch, K]
        mass = jnp.float32(1)
        picked = jnp.sum(jnp.where(hit, logits, 0), axis=-1)
    else:
        good = _is_distribution(labels)
        labels = jnp.where(good[..., None], labels, 0).astype(jnp.float32)
        mass = jnp.sum(labels, axis=-1)
        picked = jnp.sum(labels * logits, axis=-1)
    losses = mass * log_sum - (1 - label_smoothing) * picked
    if label_smoothing:
        losses -= label_smoothing * mass * jnp.mean(logits, axis=-1)
    return _sum(losses, good, weights)


def sigmoid_cross_entropy(
    logits: Float[Array, "*batch K"],
    labels: Int[Array, "*batch"] | Float[Array, "*batch K"],
    *,
    label_smoothing: float = 0.0,
    multi_hot: bool = False,
    weights: Float[Array, "*batch"] | Bool[Array, "*batch"] | None = None,
) -> LossSum:
    """Binary cross-entropy of each class, averaged over the K classes (DeiT-III, timm's BinaryCrossEntropy).

    `multi_hot` counts every class with a share in a mixed label as wholly present, as DeiT-III does. Smoothing is
    timm's: targets become (1 - s) * target + s / K.
    """
    num_classes = logits.shape[-1]
    logits = logits.astype(jnp.float32)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        good = is_class(labels, num_classes)
        labels = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    else:
        good = _is_distribution(labels)
        labels = jnp.where(good[..., None], labels, 0).astype(jnp.float32)
    if multi_hot:
        labels = (labels > 0).astype(jnp.float32)
    if label_smoothing:
        labels = (1 - label_smoothing) * labels + label_smoothing / num_classes
    losses = jnp.mean(jax.nn.softplus(logits) - labels * logits, axis=-1)
    return _sum(losses, good, weights)


def token_cross_entropy(
    logits: Float[Array, "B T V"],
    labels: Int[Array, "B T"],
    *,
    pad_id: int = 0,
    stop_ids: tuple[int, ...] = (),
    label_smoothing: float = 0.0,
    weights: Float[Array, " B"] | Bool[Array, " B"] | None = None,
) -> LossSum:
    """Softmax cross-entropy of each token; padding has no weight, and `count` is the number of real tokens.

    Args:
      pad_id: what no real token is, where there are no `stop_ids`.
      stop_ids: a sequence is real up to the first of them and with it, whatever comes then (it may be one of them).
      weights: one for each sequence (an evaluation batch's `mask`).
    """
    stops = jnp.isin(labels, jnp.asarray(stop_ids, labels.dtype))
    real = jnp.cumsum(stops, axis=-1) - stops == 0 if stop_ids else labels != pad_id
    real = real.astype(jnp.float32)
    if weights is not None:
        real *= weights[:, None]
    return softmax_cross_entropy(logits, labels, label_smoothing=label_smoothing, weights=real)


def one_hot(labels: Int[Array, "*batch"], num_classes: int) -> Float[Array, "*batch K"]:
    """Rows of 0 and 1; NaN for a label outside the classes, which every mixture keeps and the losses then refuse."""
    rows = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return jnp.where(is_class(labels, num_classes)[..., None], rows, jnp.nan)


def is_class(labels: Int[Array, "*batch"], num_classes: int) -> Bool[Array, "*batch"]:
    """True where a label is one of 0 .. num_classes - 1."""
    return (labels >= 0) & (labels < num_classes)


def _is_distribution(labels: Float[Array, "*batch K"]) -> Bool[Array, "*batch"]:
    # The slack is for bfloat16 mixtures; NaN compares false.
    return jnp.all((labels >= 0) & (labels <= 1.01), axis=-1)


def _sum(losses: Float[Array, "*batch"], good: Bool[Array, "*batch"], weights) -> LossSum:
    weights = jnp.ones_like(losses) if weights is None else weights.astype(jnp.float32)
    counted = good & (weights > 0)
    return LossSum(
        total=jnp.sum(jnp.where(counted, losses * weights, 0)),
        count=jnp.sum(jnp.where(counted, weights, 0)),
        bad_labels=jnp.sum(~good & (weights > 0), dtype=jnp.int32),
    )
