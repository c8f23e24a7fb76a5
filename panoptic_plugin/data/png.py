"""What can be told of a PNG (https://www.w3.org/TR/png-3/) without decoding it. Its chunks are taken to be whole."""

from __future__ import annotations

import zlib

SIGNATURE_LENGTH = 8
# Places in the file of the first chunk's type, width, height, interlace method and checksum, and of the next chunk.
TYPE, WIDTH, HEIGHT, INTERLACE, CRC, END = 12, 16, 20, 28, 29, 33
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
LONGEST_KEYWORD = 79


def png_size(content: bytes) -> tuple[int, int]:
    """(height, width)."""
    return int.from_bytes(content[HEIGHT : HEIGHT + 4], "big"), int.from_bytes(content[WIDTH : WIDTH + 4], "big")


def first_rows(content: bytes, rows: int) -> bytes:
    """The file as one of fewer rows, the upper ones, which spares the decoder the others.

    Rows are compressed from top to bottom, and a decoder stops when it has as many as the header says. An interlaced
    PNG and one that has no more rows is returned as it is.
    """
    if content[INTERLACE] or rows >= png_size(content)[0]:
        return content
    header = content[TYPE:HEIGHT] + rows.to_bytes(4, "big") + content[HEIGHT + 4 : CRC]
    view = memoryview(content)
    return b"".join([view[:TYPE], header, zlib.crc32(header).to_bytes(4, "big"), view[END:]])


def may_be_turned(content: bytes) -> bool:
    """Whether there is an EXIF chunk, or a text by which Pillow may find EXIF or XMP data."""
    position = SIGNATURE_LENGTH
    while position + 8 <= len(content):
        kind = content[position + 4 : position + 8]
        keyword = content[position + 8 : position + 8 + LONGEST_KEYWORD].lower() if kind in TEXTS else b""
        if kind == b"eXIf" or b"exif" in keyword or b"xmp" in keyword:
            return True
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    return False
