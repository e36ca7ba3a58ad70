# SPDX-License-Identifier: MIT
"""CompressAI's mbt2018-mean at work, in an interpreter of its own; benchmarks/compressai.py starts it, and says what is measured.

A line of JSON in for each thing to do, a line out when it is done. Imports nothing of fewbits. Runs as `python -c`, in a folder
with packages that stand in for ones that cannot be imported, so no file of this folder can hide the package of the same name.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

MULTIPLE = 64  # sides that the networks take
CHANNELS_APART = 1.02  # the deviation of a channel over that of the next
ROUNDS = 12  # of halving the logarithm of the deviations


def imported(stand_ins: str) -> tuple[Any, Any, Any]:
    """torch, numpy and compressai.zoo. What it takes from torchvision are transforms and data sets, which are not used here."""
    try:
        import torchvision  # noqa: F401
    except Exception:  # it is missing, or was built for another torch, which shows as all kinds of errors
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.path.insert(0, stand_ins)
    import compressai.zoo as zoo
    import numpy
    import torch

    return torch, numpy, zoo


class Codec:
    """The model with random weights, which can be given any rate."""

    def __init__(self, quality: int, threads: int, clock: Callable[[], float], stand_ins: str) -> None:
        self.clock = clock
        self.torch, self.numpy, zoo = imported(stand_ins)
        self.torch.set_num_threads(threads)
        self.torch.manual_seed(0)
        self.model = zoo.mbt2018_mean(quality, pretrained=False).eval()
        self.model.update(force=True)
        self.coder_s = 0.0
        for part in (self.model.entropy_bottleneck, self.model.gaussian_conditional):
            for name in ("compress", "decompress"):
                setattr(part, name, self._timed(getattr(part, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = self.clock()
            result = call(*args, **kwargs)
            self.coder_s += self.clock() - begun
            return result

        return timed

    def _tensor(self, path: str) -> Any:
        pixels = self.numpy.load(path)
        missing = [(0, -side % MULTIPLE) for side in pixels.shape[:2]]
        padded = self.numpy.pad(pixels, (*missing, (0, 0)), mode="edge")
        return self.torch.from_numpy(padded.copy()).permute(2, 0, 1)[None].float() / 255

    def set_rate(self, path: str, bpp: float) -> None:
        """Makes latents such as trained weights make: a channel's symbols are normal, with deviations that fall from channel to
        channel, and the hyperprior knows them. The deviation of the first gives the rate, of all streams of that picture."""
        torch, model = self.torch, self.model
        with torch.inference_mode():
            x = self._tensor(path)
            last, prior = model.g_a[-1], model.h_s[-1]
            last.bias.zero_()
            y = model.g_a(x)
            last.bias.copy_(-y.mean((0, 2, 3)))
            prior.weight.zero_()
            units = last.weight / y.std((0, 2, 3))[:, None, None, None], last.bias / y.std((0, 2, 3))
            shape = CHANNELS_APART ** -torch.arange(len(last.bias), dtype=torch.float32)
            low, high = math.log(1e-2), math.log(1e3)
            for _ in range(ROUNDS):
                deviations = shape * math.exp((low + high) / 2)
                last.weight.copy_(units[0] * deviations[:, None, None, None])
                last.bias.copy_(units[1] * deviations)
                prior.bias.copy_(torch.cat([deviations, torch.zeros_like(deviations)]))
                low, high = (low, (low + high) / 2) if self.once(x)["bpp"] > bpp else ((low + high) / 2, high)

    def once(self, x: Any) -> dict[str, float]:
        """A picture there and back: seconds, those of them in its entropy coder, and bits per pixel."""
        with self.torch.inference_mode():
            self.coder_s, begun = 0.0, self.clock()
            made = self.model.compress(x)
            encoded, encode_coder_s, self.coder_s = self.clock(), self.coder_s, 0.0
            self.model.decompress(made["strings"], made["shape"])
            decoded = self.clock()
        bits = 8 * sum(len(strings[0]) for strings in made["strings"])
        return {
            "encode_s": encoded - begun,
            "decode_s": decoded - encoded,
            "encode_coder_s": encode_coder_s,
            "decode_coder_s": self.coder_s,
            "bpp": bits / (x.shape[2] * x.shape[3]),
        }

    def run(self, picture: str) -> dict[str, float]:
        return self.once(self._tensor(picture))


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("compressai", "torch")}


def main() -> None:
    settings = json.loads(sys.argv[1])
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever is printed by others, replies are alone
    codec = Codec(settings["quality"], settings["threads"], getattr(time, settings["clock"]), settings["stand_ins"])
    if settings["bpp"] is not None:
        codec.set_rate(settings["picture"], settings["bpp"])
    print(json.dumps(versions()), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(codec.run(json.loads(line)["picture"])), file=replies, flush=True)


if __name__ == "__main__":
    main()
