"""Image files as strangers send them: whole ones are read right, all others are one clear ValueError."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitjax.data.images import decode_image, decode_record, read_image

GRADIENT = np.stack([np.tile(np.arange(24, dtype=np.uint8) * 10, (16, 1))] * 3, -1)
GRADIENT[..., 1] = np.arange(16, dtype=np.uint8)[:, None] * 15


def encode(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


WHOLE = {
    "PNG": encode(Image.fromarray(GRADIENT), "PNG"),
    "JPEG": encode(Image.fromarray(GRADIENT), "JPEG", quality=95),
    "WEBP": encode(Image.fromarray(GRADIENT), "WEBP", lossless=True),
}


def refusal(contents: bytes) -> str:
    with pytest.raises(ValueError) as caught:
        decode_image(contents, name="page.png")
    message = str(caught.value)
    assert "page.png" in message and "\n" not in message
    return message


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("decode", [decode_image, decode_record])
def test_whole_images_are_read(kind, decode):
    pixels = decode(WHOLE[kind])
    assert pixels.shape == (16, 24, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - GRADIENT).max() <= (0 if kind != "JPEG" else 12)


def test_grey_stays_one_channel():
    assert decode_image(encode(Image.fromarray(GRADIENT[..., 0]), "PNG")).shape == (16, 24, 1)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = (np.arange(16 * 24, dtype=np.uint16) * 170).reshape(16, 24)
    pixels = decode_image(encode(Image.fromarray(deep), "PNG"))
    assert np.abs(pixels[..., 0] - deep / 257.0).max() <= 0.5


def test_transparency_is_laid_over_white():
    for mode, clear in (("RGBA", (9, 9, 9, 0)), ("LA", (9, 0))):
        assert (decode_image(encode(Image.new(mode, (4, 4), clear), "PNG")) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    assert (decode_image(encode(palette, "PNG", transparency=0)) == 255).all()
    assert (decode_image(encode(palette, "PNG")) == [10, 20, 30]).all()


@pytest.mark.parametrize(("mode", "kind"), [("1", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG")])
def test_other_modes_become_grey_or_rgb(mode, kind):
    pixels = decode_image(encode(Image.new(mode, (4, 6)), kind))
    assert pixels.shape[:2] == (6, 4) and pixels.shape[2] in (1, 3)


def test_exif_rotation_is_followed_for_files_but_not_for_datasets():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned = encode(Image.fromarray(GRADIENT), "PNG", exif=exif)
    assert np.array_equal(decode_image(turned), np.rot90(GRADIENT, -1))
    assert np.array_equal(decode_record(turned), GRADIENT)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_does_not_cost_the_image():
    broken = encode(Image.fromarray(GRADIENT), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\xff\xff\xff")
    assert decode_image(broken).shape == (16, 24, 3)


@given(st.sampled_from(["PNG", "JPEG"]), st.floats(0, 0.95))
def test_a_file_cut_short_is_refused(kind, share):
    refusal(WHOLE[kind][: int(share * len(WHOLE[kind]))])


@given(st.sampled_from(sorted(WHOLE)), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_gives_pixels_or_one_line_and_nothing_else(kind, place, junk):
    contents, at = WHOLE[kind], int(place * len(WHOLE[kind]))
    damaged = contents[:at] + junk + contents[at + len(junk) :]
    try:
        assert decode_image(damaged, name="x").dtype == np.uint8
    except ValueError as error:
        assert "\n" not in str(error)


def test_a_flipped_bit_in_png_pixels_is_noticed():
    at = WHOLE["PNG"].index(b"IDAT") + 12
    damaged = bytearray(WHOLE["PNG"])
    damaged[at] ^= 1
    assert "damaged" in refusal(bytes(damaged))


@given(st.binary(max_size=200))
def test_what_is_no_image_is_refused(contents):
    assert "not a JPEG, PNG or WebP image" in refusal(contents)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "EPS", "PPM", "PDF"])
def test_other_formats_are_not_even_opened(kind):
    assert "not a JPEG, PNG or WebP" in refusal(encode(Image.fromarray(GRADIENT), kind))


def test_too_many_pixels_are_refused_from_the_header_alone():
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9))
        + chunk(b"IEND", b"")
    )
    assert "900000000 pixels" in refusal(bomb)
    with pytest.raises(ValueError, match="24 x 16 pixels: expected at most 383"):
        decode_image(WHOLE["JPEG"], max_pixels=24 * 16 - 1)


def test_files_are_named_in_errors(tmp_path):
    good, text = tmp_path / "good.png", tmp_path / "notes.png"
    good.write_bytes(WHOLE["PNG"])
    text.write_text("hello")
    assert np.array_equal(read_image(good), GRADIENT)
    for path, reason in (
        (tmp_path / "missing.png", "no such file"),
        (tmp_path, "a directory"),
        (text, "not a JPEG"),
    ):
        with pytest.raises(ValueError, match=reason) as caught:
            read_image(path)
        assert str(path) in str(caught.value)
