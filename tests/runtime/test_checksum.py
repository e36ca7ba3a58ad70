# SPDX-License-Identifier: MIT
"""The checksum from strips is zlib's of the whole."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.runtime.checksum import StripsChecksum, joined_crc, symbols_crc


@given(st.binary(), st.binary())
def test_the_checksums_of_two_stretches_are_joined(first: bytes, second: bytes) -> None:
    assert joined_crc(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@pytest.mark.parametrize("dtype", ["<i2", "u1"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 70, 5), (3, 4, 33, 6)], ids=str)
def test_strips_give_the_checksum_of_the_whole(shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(1)
    latent = rng.integers(0, 200, shape).astype(dtype)
    head = rng.integers(-8, 9, (4, 3, 3)).astype(np.int8)
    expected = zlib.crc32(head.tobytes() + latent.tobytes())
    for step in (1, 32, 1000):
        strips = [latent[..., top : top + step, :] for top in range(0, shape[-2], step)]
        checksum = StripsChecksum(shape[-2])
        for strip in strips:
            checksum.add(strip)
        assert checksum.rows == shape[-2] and checksum.value(head) == expected
    assert symbols_crc(head, latent) == symbols_crc(head, np.asfortranarray(latent)) == expected
    assert symbols_crc(head, latent.astype(latent.dtype.newbyteorder())) == expected
    latent[(0,) * latent.ndim] ^= 1
    assert symbols_crc(head, latent) != expected


def test_without_strips_it_is_that_of_the_head() -> None:
    assert StripsChecksum(9).value(np.array([1, 2], np.uint8)) == zlib.crc32(b"\1\2")
    assert StripsChecksum(9).value(np.empty(0, np.uint8)) == 0
