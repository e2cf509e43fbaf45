"""Sizes and pixels: where a resize aims, Pillow's filters, the middle of an image, grey and RGB."""

import math
from typing import get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitjax.data.config import Interpolation

Size = tuple[int, int]
"""Height and width."""

FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}


def covering(size: Size, goal: Size) -> Size:
    """`size` with its aspect kept, just large enough for `goal`: torchvision's rounding, timm's where `goal` is not
    square.
    """
    (height, width), side = size, goal[0]
    if goal[0] == goal[1]:
        return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    ratio = min(height / goal[0], width / goal[1])
    return round(height / ratio), round(width / ratio)


def fitting(size: Size, goal: Size) -> Size:
    """`size` with its aspect kept, as large as `goal` allows; timm's rounding."""
    ratio = max(size[0] / goal[0], size[1] / goal[1])
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def thumbnail(size: Size, goal: Size) -> list[Size]:
    """The two sizes an image goes through in Donut's processor: the shorter side of `goal`, then inside `goal`."""
    height, width = covering(size, (min(goal), min(goal)))
    most_height, most_width = min(height, goal[0]), min(width, goal[1])
    if (most_height, most_width) == (height, width):
        return [(height, width)]
    if height > width:
        most_width = int(width * most_height / height)
    elif width > height:
        most_height = int(height * most_width / width)
    return [(height, width), (max(1, most_height), max(1, most_width))]


def whole_patches(size: Size, patch_size: int, max_patches: int) -> Size:
    """The largest size of at most `max_patches` whole patches with nearly the aspect of `size`.

    The scale is found by halving an interval, with SigLIP 2's bounds, so that the same grid comes out to the patch.
    """

    def scaled(scale: float) -> Size:
        height, width = (max(1, math.ceil(side * scale / patch_size)) * patch_size for side in size)
        return height, width

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        height, width = scaled(middle)
        if height * width <= max_patches * patch_size**2:
            low = middle
        else:
            high = middle
    return scaled(low)


def share(part: int, whole: int) -> float:
    """The fraction of `whole` that `part` is, such that `int(part / fraction)` is `whole` again."""
    fraction = part / whole
    return fraction if int(part / fraction) == whole else math.nextafter(fraction, 0)


def resize(
    image: UInt8[np.ndarray, "h w C"], size: Size, interpolation: str, *, round_once: bool = False
) -> UInt8[np.ndarray, "H W C"]:
    """Pillow's resize (antialiased) to (height, width).

    Pillow rounds to 8 bits after each of the two directions; with `round_once` it computes in float32, and only what
    comes out is rounded.
    """
    if image.shape[:2] == size:
        return image
    if not round_once:
        return from_pil(to_pil(image).resize(size[::-1], FILTERS[interpolation]))
    resized = np.empty((*size, image.shape[-1]), np.float32)
    for channel in range(image.shape[-1]):
        plane = Image.fromarray(image[..., channel].astype(np.float32))
        resized[..., channel] = np.asarray(plane.resize(size[::-1], FILTERS[interpolation]))
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def middle(
    image: UInt8[np.ndarray, "h w C"], size: Size, *, rounding: str, fill: tuple[int, ...]
) -> UInt8[np.ndarray, "H W C"]:
    """The middle of an image, with a border of `fill` where it is smaller than `size`.

    Args:
      rounding: of half a pixel: `even` as torchvision cuts (and pads, downwards), `down` as transformers does.
    """

    if image.shape[:2] == size:
        return image

    def start(have: int, want: int) -> int:
        if rounding == "down":
            return (have - want) // 2
        return round((have - want) / 2) if have > want else -((want - have) // 2)

    top, left = (start(have, want) for have, want in zip(image.shape[:2], size, strict=True))
    image = image[max(top, 0) : max(top, 0) + size[0], max(left, 0) : max(left, 0) + size[1]]
    if image.shape[:2] == size:
        return image
    top, left = max(-top, 0), max(-left, 0)
    canvas = np.empty((*size, image.shape[-1]), np.uint8)
    canvas[...] = fill
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


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


def to_pil(image: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """An L or RGB picture."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pil(picture: Image.Image) -> UInt8[np.ndarray, "H W C"]:
    """The inverse of `to_pil`."""
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels
