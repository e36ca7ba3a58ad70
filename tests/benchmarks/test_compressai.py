# SPDX-License-Identifier: MIT
"""benchmarks/compressai.py with a stand-in for the package: the other interpreter, the rate that is set, and what is told."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

Script = Callable[[str], ModuleType]

# As much of the package as is used: one convolution a part, and streams as long as the symbols' entropy says.
STAND_IN = """
import math
import torch
import torchvision.transforms
from torch import nn

class Bottleneck(nn.Module):
    def compress(self, z):
        return [b"z" * 4]
    def decompress(self, strings, shape):
        return torch.zeros(1, 4, *shape)

class Conditional(nn.Module):
    def compress(self, y, scales):
        bits = torch.log2(4.13 * scales.clamp(min=0.25)).sum()
        return [b"y" * int(bits / 8)]
    def decompress(self, strings, scales):
        return torch.zeros_like(scales)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.g_a = nn.Sequential(nn.Conv2d(3, 6, 16, stride=16))
        self.g_s = nn.ConvTranspose2d(6, 3, 16, stride=16)
        self.h_s = nn.Sequential(nn.ConvTranspose2d(4, 12, 4, stride=4))
        self.entropy_bottleneck, self.gaussian_conditional = Bottleneck(), Conditional()
    def update(self, force):
        print("what others print is no reply")
    def compress(self, x):
        assert x.shape[2] % 64 == 0 and x.shape[3] % 64 == 0 and 0 <= x.min() and x.max() <= 1
        shape = [side // 64 for side in x.shape[2:]]
        scales, _ = self.h_s(self.entropy_bottleneck.decompress([], shape)).chunk(2, 1)
        strings = self.gaussian_conditional.compress(self.g_a(x), scales)
        return {"strings": [strings, self.entropy_bottleneck.compress(None)], "shape": shape}
    def decompress(self, strings, shape):
        scales, _ = self.h_s(self.entropy_bottleneck.decompress(strings[1], shape)).chunk(2, 1)
        return {"x_hat": self.g_s(self.gaussian_conditional.decompress(strings[0], scales))}

def mbt2018_mean(quality, pretrained):
    assert quality == 3 and not pretrained
    return Model()
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the other interpreter's packages, with a torchvision that cannot be imported."""
    pytest.importorskip("torch")
    place = tmp_path / "packages"
    (place / "compressai").mkdir(parents=True)
    (place / "compressai" / "__init__.py").touch()
    (place / "compressai" / "zoo.py").write_text(STAND_IN)
    (place / "torchvision").mkdir()
    (place / "torchvision" / "__init__.py").write_text("from . import missing")
    metadata = place / "compressai-9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: compressai\nVersion: 9.9\n")
    monkeypatch.setenv("PYTHONPATH", str(place))
    return tmp_path


@pytest.mark.parametrize("bpp", [0.02, 0.1])
def test_the_other_codec_gets_the_rate_and_is_timed(
    stand_in: Path, script: Script, picture: Callable[..., np.ndarray], bpp: float
) -> None:
    path = stand_in / "picture.npy"
    np.save(path, picture(200, 250))
    other = script("compressai").Other(sys.executable, 1, bpp, path, stand_in)
    try:
        assert other.versions["compressai"] == "9.9"
        sample = other.sample(path, 200 * 250)
    finally:
        other.close()
    assert sample.bpp == pytest.approx(bpp, rel=0.05)
    assert 0 < sample.encode_coder < 1 and 0 < sample.decode_coder < 1
    assert sample.encode_mps > 0 and sample.decode_mps > 0


def test_an_interpreter_without_the_package_says_so(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty" / "compressai").mkdir(parents=True)
    (tmp_path / "empty" / "compressai" / "__init__.py").write_text("raise ImportError('no such thing here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "empty"))
    with pytest.raises(SystemExit, match="(?s)cannot be run by .*no such thing here"):
        script("compressai").Other(sys.executable, 1, 0.3, tmp_path / "none.npy", tmp_path)


def test_what_is_no_interpreter_is_named(tmp_path: Path, script: Script) -> None:
    with pytest.raises(SystemExit, match="--python is nowhere/python, which is no interpreter"):
        script("compressai").Other("nowhere/python", 1, 0.3, tmp_path / "none.npy", tmp_path)


def test_the_report_takes_ratios_picture_by_picture(script: Script) -> None:
    module = script("compressai")
    ours = [module.Sample(0.3, 8.0, 6.0, 0.1, 0.2), module.Sample(0.5, 4.0, 3.0, 0.1, 0.2)]
    theirs = [module.Sample(0.3, 1.0, 1.0, 0.5, 0.5), module.Sample(0.3, 0.4, 0.5, 0.5, 0.5)]
    text = module.report(ours, theirs)
    assert "| fewbits                 |          0.400 |        6.00 |        4.50 |" in text
    assert "encoding: **9.0 times** its speed; the bar is 8: met" in text
    assert "decoding: **6.0 times** its speed; the bar is 8: NOT MET" in text
