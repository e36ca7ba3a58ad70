# SPDX-License-Identifier: MIT
"""Sections that end in a checksum of their own, and deflated bytes of bounded size (docs/format.md)."""

import zlib

from fewbits.errors import CorruptError


def sealed(content: bytes) -> bytes:
    """The content with its CRC-32 after it."""
    return content + zlib.crc32(content).to_bytes(4, "little")


def unsealed(section: bytes, name: str) -> bytes:
    """The content, at least a byte. Raises CorruptError that names the section where its CRC-32 is another."""
    content, crc = section[:-4], section[-4:]
    if len(section) < 5 or zlib.crc32(content) != int.from_bytes(crc, "little"):
        raise CorruptError(f"{name}: the section's checksum does not match: the file is damaged")
    return content


def inflated(content: bytes, most: int, name: str) -> tuple[bytes, bool]:
    """A zlib stream's bytes, of which never more than `most` + 1 are made, and whether it ends there and with `content`.

    Raises CorruptError: `name` cannot be inflated.
    """
    inflater = zlib.decompressobj()
    try:
        value = inflater.decompress(content, most + 1)
    except zlib.error as error:
        raise CorruptError(f"{name} cannot be inflated: {error}") from error
    return value, inflater.eof and not inflater.unused_data
