"""Windows of resized pictures, and PNGs that are decoded only as far as needed."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from panoptic_plugin.data.png import first_rows, may_be_turned, png_size
from panoptic_plugin.data.reading import Picture, open_image
from panoptic_plugin.data.window import Window, _Span
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.structures import rgb_to_ids


def picture_of(pixels: np.ndarray) -> Picture:
    """As of a PNG: what is below the rows that are asked for is not there."""
    image = Image.fromarray(pixels)
    return Picture(pixels.shape[:2], lambda rows=None: image.crop((0, 0, image.width, rows or image.height)))


def assert_window(pixels: np.ndarray, window: Window) -> None:
    rows = slice(window.top, window.top + window.height)
    columns = slice(window.left, window.left + window.width)
    whole = Image.fromarray(pixels)
    image = np.asarray(whole.resize(window.resized[::-1], Image.Resampling.BILINEAR))[rows, columns]
    label = np.asarray(whole.resize(window.resized[::-1], Image.Resampling.NEAREST))[rows, columns]
    picture = picture_of(pixels)
    assert np.array_equal(np.asarray(window.of_image(picture)), image)
    assert np.array_equal(window.of_label(picture), rgb_to_ids(label) if label.ndim == 3 else label)


@given(st.integers(0, 2**32 - 1), *[st.integers(1, 150)] * 4, st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_window_is_a_part_of_the_whole(seed, height, width, new_height, new_width, is_grey):
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(size)) for size in (new_height, new_width))
    rows, columns = int(rng.integers(1, new_height - top + 1)), int(rng.integers(1, new_width - left + 1))
    pixels = rng.integers(0, 256, (height, width) if is_grey else (height, width, 3), dtype=np.uint8)
    assert_window(pixels, Window((height, width), (new_height, new_width), top, left, rows, columns))


@pytest.mark.parametrize("source, resized", [((512, 40), (307, 24)), ((40, 512), (30, 384)), ((500, 30), (100, 6))])
def test_pictures_that_lose_many_more_rows_than_columns_are_resized_whole(source, resized):
    pixels = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    assert_window(pixels, Window(source, resized, 5, 2, 19, 3))


def test_a_span_is_no_wider_than_it_must_be():
    assert _Span.around(100, 612, 1024, 1024) == _Span(100, 612, 98, 614, 2.0, 514.0)
    upscaled = _Span.around(100, 612, 1024, 2048)
    assert (upscaled.start, upscaled.stop, upscaled.first, upscaled.last) == (100, 612, 48, 308)
    assert _Span.around(101, 612, 1024, 1408) == _Span.around(99, 616, 1024, 1408)  # steps of 11
    assert _Span.around(101, 612, 640, 959).stop == 959  # no place but the ends is exact


def encoded(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(90, 70, 3), (90, 70), (300, 400, 3)])
@pytest.mark.parametrize("rows", [1, 17, 89, 90, 500])
def test_first_rows_of_a_png(shape, rows):
    """The last shape takes several chunks of data."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    content = encoded(pixels)
    assert png_size(content) == shape[:2]
    cut = first_rows(content, rows)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(cut))), pixels[:rows])
    assert (cut is content) == (rows >= shape[0])


def test_an_interlaced_png_is_left_alone():
    content = bytearray(encoded(np.zeros((9, 9), np.uint8)))
    content[28] = 1
    assert first_rows(bytes(content), 2) == content


def test_what_may_turn_a_png():
    pixels = np.zeros((4, 5, 3), np.uint8)
    assert not may_be_turned(encoded(pixels))
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", "a camera")
    assert not may_be_turned(encoded(pixels, pnginfo=note))
    assert may_be_turned(encoded(pixels, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"))
    for keyword in ("Raw profile type exif", "XML:com.adobe.xmp"):
        text = PngImagePlugin.PngInfo()
        text.add_itxt(keyword, "...")
        assert may_be_turned(encoded(pixels, pnginfo=text))


def test_damage_below_the_rows_is_found_without_decoding_them(tmp_path):
    path = tmp_path / "image.png"
    content = bytearray(encoded(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)))
    path.write_bytes(content)
    assert open_image(str(path), "RGB").decode(9).size[0] == 300
    content[-60] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="checksum"):
        open_image(str(path))


def test_what_cannot_be_decoded_is_named_when_it_is_decoded(tmp_path):
    path = tmp_path / "image.png"
    content = encoded(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))
    pixels = b"IDAT" + content[41:60]  # half of them, with a checksum that is right
    path.write_bytes(
        content[:33] + struct.pack(">I", 19) + pixels + struct.pack(">I", zlib.crc32(pixels)) + content[-12:]
    )
    picture = open_image(str(path))
    assert picture.size == (8, 8)
    with pytest.raises(DatasetError, match=f"{path} cannot be decoded"):
        picture.decode()
