"""From a decoded image to what a model takes; travels with a run as JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float32, UInt8
from PIL import Image

from vitjax.data.config import DataConfig

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """Size, channels and normalisation a model was trained with; fields as in `DataConfig`."""

    image_size: tuple[int, int]
    channels: int = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    resize: Literal["stretch", "crop", "fit"] = "stretch"
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    fill: int = 0

    @classmethod
    def of(cls, config: DataConfig) -> "Preprocess":
        """What evaluation under `config` does."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    def __call__(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "H W C"]:
        """Resize, cut or pad to `image_size` and convert to `channels`, in uint8, by Pillow's antialiased filters."""
        image = to_channels(image, self.channels)
        if image.shape[:2] == self.image_size:
            return image
        height, width = self.image_size
        if self.resize == "stretch":
            return resize(image, self.image_size, self.interpolation)
        if self.resize == "crop":
            goal_height, goal_width = (
                math.floor(height / self.crop_fraction),
                math.floor(width / self.crop_fraction),
            )
            scale = max(goal_height / image.shape[0], goal_width / image.shape[1])
            image = resize(image, _scaled(image, scale, int), self.interpolation)
            top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
            return image[top : top + height, left : left + width]
        scale = min(height / image.shape[0], width / image.shape[1])
        image = resize(image, _scaled(image, scale, round), self.interpolation)
        canvas = np.full((height, width, self.channels), self.fill, np.uint8)
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        return canvas

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


def to_channels(image: UInt8[np.ndarray, "h w c"], channels: int) -> UInt8[np.ndarray, "h w C"]:
    """Grey to RGB by repetition, RGB to grey by Rec. 601 luma (Pillow's)."""
    found = image.shape[-1]
    if found == channels:
        return image
    if found == 1 and channels == 3:
        return np.repeat(image, 3, axis=-1)
    if found == 3 and channels == 1:
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    raise ValueError(f"an image with {found} channels cannot become {channels}: expected 1 (grey) or 3 (RGB)")


def resize(
    image: UInt8[np.ndarray, "h w C"], size: tuple[int, int], interpolation: str
) -> UInt8[np.ndarray, "H W C"]:
    """Pillow's resize (antialiased) to (height, width)."""
    if image.shape[:2] == size:
        return image
    return from_pil(to_pil(image).resize(size[::-1], RESAMPLING[interpolation]))


def to_pil(image: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """An L or RGB picture."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pil(picture: Image.Image) -> UInt8[np.ndarray, "H W C"]:
    """The inverse of `to_pil`."""
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _scaled(image: np.ndarray, scale: float, rounding: Any) -> tuple[int, int]:
    # The tiny addition keeps int() from turning an exact 224 that came out as 223.99999 into 223.
    return max(1, rounding(image.shape[0] * scale + 1e-6)), max(1, rounding(image.shape[1] * scale + 1e-6))
