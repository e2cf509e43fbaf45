"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) on the device, from a key, with timm's rules.

Both are one blend with a mask over the pixels: a constant for mixup, a box for CutMix. So the choice between them is a
`where`, and one program with static shapes serves all batches.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, UInt32

from vitjax.training.losses import one_hot

PRNGKey = Key[Array, ""] | UInt32[Array, "2"]


@dataclass(frozen=True)
class MixingConfig:
    """Mixing of pairs of images. DeiT-III: mixup 0.8, cutmix 1.0. With both at 0 nothing is mixed."""

    mixup: float = 0.0
    """alpha of Beta(alpha, alpha), from which the share of the first image is drawn; 0 is never."""
    cutmix: float = 0.0
    """The same for CutMix, where the share is an area."""
    switch_probability: float = 0.5
    """Part of the batches that take CutMix when both are on."""
    probability: float = 1.0
    """Part of the batches that are mixed at all."""

    def __post_init__(self):
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"mixing.{name} is {getattr(self, name)}; it must be 0 (off) or above")
        for name in ("switch_probability", "probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"mixing.{name} is {getattr(self, name)}; it must be between 0 and 1")

    @property
    def active(self) -> bool:
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


def mix(
    key: PRNGKey,
    images: Num[Array, "B h w c"],
    labels: Int[Array, " B"],
    num_classes: int,
    config: MixingConfig,
) -> tuple[Num[Array, "B h w c"], Float[Array, "B K"]]:
    """Blend each image with the one before it in the batch; one draw for the whole batch, as timm's batch mode.

    Images keep their dtype (uint8 is rounded). A label outside the classes makes its rows NaN: see `losses.one_hot`.
    """
    targets = one_hot(labels, num_classes)
    if not config.active:
        return images, targets
    apply_key, choice_key, mixup_key, cutmix_key = jax.random.split(key, 4)
    height, width = images.shape[1:3]
    mask = jnp.ones((height, width))
    if config.mixup:
        mask = mixup_mask(mixup_key, config.mixup, height, width)
    if config.cutmix:
        box = cutmix_mask(cutmix_key, config.cutmix, height, width)
        take_box = jax.random.bernoulli(choice_key, config.switch_probability) if config.mixup else True
        mask = jnp.where(take_box, box, mask)
    mask = jnp.where(jax.random.bernoulli(apply_key, config.probability), mask, 1.0)
    return blend(images, mask), blend_labels(targets, mask)


def mixup_mask(key: PRNGKey, alpha: float, height: int, width: int) -> Float[Array, "h w"]:
    """One share from Beta(alpha, alpha) at every pixel."""
    return jnp.full((height, width), jax.random.beta(key, alpha, alpha))


def cutmix_mask(key: PRNGKey, alpha: float, height: int, width: int) -> Float[Array, "h w"]:
    """0 in a box of the image's proportions, cut off at the borders, else 1; box area 1 - Beta(alpha, alpha)."""
    share_key, row_key, column_key = jax.random.split(key, 3)
    ratio = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))

    def inside(key, size):  # [size]
        half = jnp.floor(size * ratio).astype(jnp.int32) // 2
        centre = jax.random.randint(key, (), 0, size)
        index = jnp.arange(size)
        return (index >= centre - half) & (index < centre + half)

    box = inside(row_key, height)[:, None] & inside(column_key, width)[None, :]
    return jnp.where(box, 0.0, 1.0)


def blend(images: Num[Array, "B h w c"], mask: Float[Array, "h w"]) -> Num[Array, "B h w c"]:
    """mask * image + (1 - mask) * the previous image of the batch."""
    # Rolling by one moves a single image between neighbouring devices, where timm's flip would move the whole batch.
    own = images.astype(jnp.float32)
    mask = mask[None, :, :, None]
    mixed = mask * own + (1 - mask) * jnp.roll(own, 1, axis=0)  # [B, h, w, c]
    if jnp.issubdtype(images.dtype, jnp.integer):
        mixed = jnp.round(mixed)
    return mixed.astype(images.dtype)


def blend_labels(targets: Float[Array, "B K"], mask: Float[Array, "h w"]) -> Float[Array, "B K"]:
    """Labels in the proportion in which the pixels were taken."""
    share = jnp.mean(mask)
    return share * targets + (1 - share) * jnp.roll(targets, 1, axis=0)
