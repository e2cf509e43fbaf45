"""Image bytes into pixels, trusting nothing.

Pillow alone decodes whatever it knows (EPS starts Ghostscript), ignores EXIF rotation, turns 16-bit grey
into white, and raises half a dozen kinds of error. Here only JPEG, PNG and WebP are opened, size is judged
by the header before anything is allocated, and every failure is one ValueError.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 256 * 2**20


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "H W C"]:
    """Pixels of an image file, upright, grey (C = 1) or RGB (C = 3); transparency is laid over white.

    Raises ValueError, one line that names the file, for whatever is not a whole JPEG, PNG or WebP image
    of at most `max_pixels`.
    """
    path = Path(path)
    if not path.is_file():
        found = "a directory" if path.is_dir() else "not a regular file" if path.exists() else "no such file"
        raise ValueError(f"{path}: {found}: expected a JPEG, PNG or WebP image")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(
            f"{path}: {path.stat().st_size / 2**20:.0f} MiB: expected at most {MAX_FILE_BYTES >> 20} MiB"
        )
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_image(contents, name=str(path), max_pixels=max_pixels)


def decode_image(
    contents: bytes, *, name: str = "image", max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W C"]:
    """As `read_image`, for bytes; `name` stands in the error."""
    image = _open(contents, name, max_pixels)
    with _one_line(name, image):
        if image.format == "PNG":
            # Loading skips the checksums of the pixel data; verifying reads them all, and spends the image.
            image.verify()
            image = Image.open(io.BytesIO(contents), formats=FORMATS)
        image.load()
        return _pixels(_upright(image))


def decode_record(contents: bytes, *, name: str = "record") -> UInt8[np.ndarray, "H W C"]:
    """As `decode_image`, for an image out of a dataset: EXIF rotation is left out, as in published accuracies.

    ArrayRecord has checked the bytes already, so PNG checksums are not read again.
    """
    image = _open(contents, name, MAX_PIXELS)
    with _one_line(name, image):
        image.load()
        return _pixels(image)


def _open(contents: bytes, name: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(contents), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}: expected at most {max_pixels:,} in all") from error
    except Exception as error:
        raise ValueError(f"{name}: not a JPEG, PNG or WebP image ({len(contents)} bytes)") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"{name}: {width} x {height} pixels: expected at most {max_pixels:,} in all")
    return image


@contextmanager
def _one_line(name: str, image: Image.Image) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error, ... by the kind of damage.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name}: damaged or truncated {image.format or 'image'}: {reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Unreadable EXIF is no reason to refuse pixels that are whole.
        return image


def _pixels(image: Image.Image) -> UInt8[np.ndarray, "H W C"]:
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey: Pillow would clip everything above 255 to white.
        values = np.asarray(image, np.float64)
        return np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)[..., None]
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    elif image.mode != "RGB":
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
