"""Pixels as PNG bytes: TFDS would reach for TensorFlow to encode an array."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def png(image: UInt8[np.ndarray, "H W"]) -> bytes:
    """A grey image, losslessly; the fastest compression, as these are small and written by the ten thousand."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
