"""A PNG's header (https://www.w3.org/TR/png-3/#11IHDR), which is 13 bytes in the first chunk."""

from __future__ import annotations

import zlib

# Places in the file: the chunk's type, width, height, interlace method, checksum, and the next chunk.
TYPE, WIDTH, HEIGHT, INTERLACE, CRC, END = 12, 16, 20, 28, 29, 33


def png_size(content: bytes) -> tuple[int, int]:
    """(height, width) of a PNG file."""
    return int.from_bytes(content[HEIGHT : HEIGHT + 4], "big"), int.from_bytes(content[WIDTH : WIDTH + 4], "big")


def first_rows(content: bytes, rows: int) -> bytes:
    """A PNG file as one of fewer rows, the upper ones, which spares the decoder the others.

    Rows are compressed from top to bottom, and a decoder stops when it has as many as the header says. An interlaced
    PNG and one that has no more rows is returned as it is.
    """
    if content[INTERLACE] or rows >= png_size(content)[0]:
        return content
    header = content[TYPE:HEIGHT] + rows.to_bytes(4, "big") + content[HEIGHT + 4 : CRC]
    return content[:TYPE] + header + zlib.crc32(header).to_bytes(4, "big") + content[END:]
