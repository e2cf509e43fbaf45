"""From a decoded image to what a model takes; travels with a model as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float32, UInt8

from vitjax.data.config import DataConfig, Interpolation
from vitjax.data.images import MAX_PIXELS
from vitjax.data.resize import covering, fitting, middle, resize, share, thumbnail, to_channels, whole_patches


@dataclass(frozen=True)
class Preprocess:
    """Everything between a decoded image and the numbers a model was trained with.

    In this order: channels, quarter turn, resize, cut or pad to `image_size`, (x / 255 - mean) / std. Checkpoints that
    scale pixels in another way (another factor, none) have it in `mean` and `std`.
    """

    image_size: tuple[int, int]
    """Height and width that come out; under `patches` those of a square image."""
    channels: int = 3
    """1 (grey) or 3 (RGB)."""
    mean: tuple[float, ...] = (0.5,)
    """Of pixels scaled to 0..1: one value for all channels, or one a channel."""
    std: tuple[float, ...] = (0.5,)
    """Divides what is left."""
    resize: Literal["none", "stretch", "crop", "fit", "thumbnail", "patches"] = "stretch"
    """How an image is brought to `resize_size`.

    `stretch` ignores the aspect; `crop` keeps it and covers that size; `fit` keeps it and stays inside; `thumbnail`
    covers its shorter side both ways and then fits (Donut, Kim et al. 2022). `patches` has no such size: at most
    `max_patches` whole patches, the aspect nearly kept (NaFlex, Tschannen et al. 2025).
    """
    resize_size: tuple[int, int] | None = None
    """Height and width before the middle of `image_size` is cut out; None is `image_size`."""
    interpolation: Interpolation = "bilinear"
    """Of the resize: Pillow's filters."""
    round_once: bool = False
    """A resize rounds to 8 bits at its end alone (DINOv3), not after each direction as Pillow does."""
    middle: Literal["even", "down"] = "even"
    """Where the middle lies if one row more is cut on one side: as in torchvision and timm, or as in transformers."""
    fill: tuple[int, ...] = (0,)
    """Colour of a border: one value for all channels, or one a channel."""
    align_long_axis: bool = False
    """Turn what lies across `image_size` by 90 degrees, clockwise (Donut)."""
    patch_size: int = 16
    """Side of a patch under `patches`."""
    max_patches: int = 256
    """Patches of an image under `patches`, at most."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"preprocessing has channels={self.channels}: expected 1 (grey) or 3 (RGB)")
        for name in ("mean", "std", "fill"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(
                    f"preprocessing has {name}={getattr(self, name)}: expected 1 value, or {self.channels} (channels)"
                )
        if min(self.std) <= 0:
            raise ValueError(f"preprocessing has std={self.std}: expected values above 0")
        if min(*self.image_size, *(self.resize_size or (1,)), self.patch_size, self.max_patches) < 1:
            raise ValueError(f"a size is smaller than 1 in {self}")

    @classmethod
    def of(cls, config: DataConfig) -> "Preprocess":
        """What evaluation under `config` does."""
        size = config.image_size
        before = int(size[0] / config.crop_fraction), int(size[1] / config.crop_fraction)
        cut = config.resize in ("crop", "squash") and before != size
        return cls(
            image_size=size,
            channels=config.channels,
            mean=config.mean,
            std=config.std,
            resize="stretch" if config.resize == "squash" else config.resize,
            resize_size=before if cut else None,
            interpolation=config.interpolation,
            fill=(config.fill,),
        )

    def data_fields(self) -> dict[str, Any]:
        """Fields of `DataConfig` for training on: the same sizes and scale, and the nearest of its ways to resize.

        `thumbnail` becomes `fit`; `none` and `patches`, under which images keep sizes of their own, become `stretch`.
        """
        before, after = self.resize_size or self.image_size, self.image_size
        resize = {"crop": "crop", "fit": "fit", "thumbnail": "fit"}.get(self.resize, "stretch")
        if self.resize == "stretch" and before != after:
            resize = "squash"
        return {
            "image_size": after,
            "channels": self.channels,
            "mean": self.mean,
            "std": self.std,
            "resize": resize,
            "crop_fraction": min(1.0, share(after[0], before[0])),
            "interpolation": self.interpolation,
            "fill": round(sum(self.fill) / len(self.fill)),
        }

    def at(self, image_size: tuple[int, int]) -> "Preprocess":
        """The same to one fixed size, with the same share of the image cut away.

        `none` and `patches`, under which images keep sizes of their own, become `stretch`.
        """
        before = self.resize_size
        if before is not None:
            height, width = (
                round(a * b / c) for a, b, c in zip(before, image_size, self.image_size, strict=True)
            )
            before = height, width
        resize = "stretch" if self.resize in ("none", "patches") else self.resize
        return replace(self, image_size=image_size, resize_size=before, resize=resize)

    @property
    def keeps_all(self) -> bool:
        """Whether the whole image comes out, and nothing but it: no part is cut off, turned or padded."""
        stretched = self.resize == "stretch" and self.resize_size in (None, self.image_size)
        return (stretched or self.resize == "patches") and not self.align_long_axis

    def __call__(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "H W C"]:
        """The image in the model's size and channels, still in uint8.

        Raises ValueError if it has other than 1 or 3 channels, or is so narrow that covering the size takes too much.
        """
        image = to_channels(image, self.channels)
        wide = image.shape[1] - image.shape[0]
        if self.align_long_axis and wide * (self.image_size[1] - self.image_size[0]) < 0:
            image = np.rot90(image, 3)
        for height, width in self._sizes(image.shape[0], image.shape[1]):
            if height * width > MAX_PIXELS:
                raise ValueError(
                    f"an image of {image.shape[0]} x {image.shape[1]} pixels is too narrow: it would grow to "
                    f"{height} x {width} before its middle is cut out"
                )
            image = resize(image, (height, width), self.interpolation, round_once=self.round_once)
        if self.resize == "patches":
            return image
        return middle(image, self.image_size, rounding=self.middle, fill=self.fill)

    def _sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        goal = self.resize_size or self.image_size
        match self.resize:
            case "none":
                return []
            case "stretch":
                return [goal]
            case "crop":
                return [covering((height, width), goal)]
            case "fit":
                return [fitting((height, width), goal)]
            case "thumbnail":
                return thumbnail((height, width), goal)
            case "patches":
                return [whole_patches((height, width), self.patch_size, self.max_patches)]

    def normalize(
        self, images: UInt8[Array, "*B H W C"] | UInt8[np.ndarray, "*B H W C"]
    ) -> Float32[Array, "*B H W C"]:
        """(x / 255 - mean) / std in float32; a jax function, meant to be part of the compiled step."""
        return normalize(images, self.mean, self.std)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `to_dict`, also after a round through JSON; an unknown field is a ValueError."""
        unknown = set(fields) - set(cls.__dataclass_fields__)
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(
                f"preprocessing has the unknown field {sorted(unknown)[0]!r}: expected some of {known}"
            )
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)


def normalize(
    images: UInt8[Array, "*B H W C"] | UInt8[np.ndarray, "*B H W C"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float32[Array, "*B H W C"]:
    """(x / 255 - mean) / std in float32, on whatever device the images are."""
    import jax.numpy as jnp  # here, so that processes that only prepare batches never load jax

    mean_, std_ = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return (jnp.asarray(images, jnp.float32) / 255 - mean_) / std_
