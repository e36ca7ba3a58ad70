# SPDX-License-Identifier: MIT
"""Peers write real files, and the searches find what trying every quality finds."""

import numpy as np
import pytest

from fewbits.bench.metrics import psnr
from fewbits.bench.peers import JPEG, PEERS, Peer, nearest_psnr, nearest_size


def test_psnr_is_its_definition() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black + 255) == pytest.approx(0)
    assert psnr(black, black + 1) == pytest.approx(20 * np.log10(255))
    assert psnr(black, black) > 90


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_comes_near_and_a_higher_quality_nearer(peer: Peer, photo: np.ndarray) -> None:
    part = photo[:128, :96]
    low, high = (peer.encode(part, quality) for quality in (20, 90))
    assert len(low) < len(high)
    assert 20 < psnr(part, peer.decode(low)) < psnr(part, peer.decode(high))
    assert peer.decode(low).shape == part.shape and peer.decode(low).dtype == np.uint8


def test_searches_find_the_best_quality(photo: np.ndarray) -> None:
    part = photo[:96, :96]
    files = {quality: JPEG.encode(part, quality) for quality in range(1, 96)}
    limit = len(files[37])
    found = nearest_size(JPEG, part, limit)
    assert found is not None
    assert found[0] == max(quality for quality, data in files.items() if len(data) <= limit)
    assert nearest_size(JPEG, part, 10) is None
    scores = {quality: psnr(part, JPEG.decode(data)) for quality, data in files.items()}
    target = scores[50] + 0.01
    best = min(scores, key=lambda quality: abs(scores[quality] - target))
    assert nearest_psnr(JPEG, part, target)[0] == best
