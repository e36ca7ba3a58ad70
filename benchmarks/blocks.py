# SPDX-License-Identifier: MIT
"""What each part of a flagship's large networks is worth: the loss without it, as nothing else is changed or trained.

A part is a block, or one of its two branches: the mixing of places, or the wide layer. What hardly raises the loss only takes
time: the settings of `few` can leave it out (docs/adr/0022-a-lean-analysis.md). Needs the extra `train`.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fewbits import FewbitsError
from fewbits.families.losses import Distortion
from fewbits.installed import DEFAULT_MODEL, SHIPPED
from fewbits.training import export
from fewbits.training.data import decode_rgb, find_pictures, to_tensor

LEVELS: Final = (1.0, 3.0, 5.0, 7.0)
SIDE: Final = 256  # pixels, of the crop of each picture
PARTS: Final = {"mixing": "mix_out", "wide layer": "reduce"}  # the layer whose output a branch adds


@torch.no_grad()
def losses(model: Any, x: Tensor, distortion: Distortion) -> np.ndarray:
    """lambda distortion + bits per pixel at each of LEVELS, means over pictures x (b, 3, h, w)."""
    found = []
    for number in LEVELS:
        level = torch.full((len(x),), number)
        out = model(x, level)
        bpp = (out.y_bits + out.z_bits) / x[0, 0].numel()
        found.append((model.loss_weight(level) * distortion(x, out.x_hat) + bpp).mean().item())
    return np.array(found)


def without_each(model: Any) -> Iterator[str]:
    """Leaves out one part after another, and gives its name while it is left out."""
    for network in ("analysis", "synthesis"):
        for place in ("blocks_8", "blocks_16"):
            for number, block in enumerate(getattr(getattr(model, network), place, ())):
                branches = {part: layer for part, layer in PARTS.items() if hasattr(block, layer)}
                for part, layer in branches.items():
                    yield from _without(block, [layer], f"{network}.{place}.{number}, {part}")
                yield from _without(block, branches.values(), f"{network}.{place}.{number}, all of it")


def _without(block: nn.Module, layers: Iterable[str], name: str) -> Iterator[str]:
    hooks = [getattr(block, layer).register_forward_hook(lambda module, args, out: torch.zeros_like(out)) for layer in layers]
    yield name
    for hook in hooks:
        hook.remove()


def run(options: argparse.Namespace) -> None:
    model: Any = export.load_model(export.load_bundle(options.model)).eval()
    distortion = Distortion(options.loss)
    pictures = [picture for picture in map(decode_rgb, find_pictures([options.pictures])) if picture is not None]
    crops = [picture[:SIDE, :SIDE] for picture in pictures[:: options.every] if min(picture.shape[:2]) >= SIDE]
    if not crops:
        raise SystemExit(f"{options.pictures}: no picture of {SIDE}x{SIDE} pixels or more")
    x = to_tensor(np.stack(crops), torch.device("cpu"))
    before = losses(model, x, distortion)
    print(f"{options.model.name}, loss {options.loss}, {len(crops)} pictures: {' '.join(f'{value:.4f}' for value in before)}")
    print(f"\n| without | {' | '.join(f'level {level:g}' for level in LEVELS)} |\n|---|{'---:|' * len(LEVELS)}")
    for name in without_each(model):
        change = 100 * (losses(model, x, distortion) / before - 1)
        print(f"| {name} | {' | '.join(f'{value:+.2f} %' for value in change)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="a folder of pictures")
    parser.add_argument(
        "--model", type=Path, default=SHIPPED / DEFAULT_MODEL, help="the folder of a bundle (default: %(default)s)"
    )
    parser.add_argument("--loss", default="mse", help="what the model was trained for (default %(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take only every Nth picture (default %(default)s)")
    try:
        run(parser.parse_args())
    except FewbitsError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
