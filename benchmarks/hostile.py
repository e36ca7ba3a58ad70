# SPDX-License-Identifier: MIT
"""What hostile files cost until they are refused, each decoded in a process of its own: `python benchmarks/hostile.py`.

Checksums in them are right up to where they are refused: whoever writes a hostile file computes them. Seconds are those of the
processor, all threads, for the decoding alone; memory is the most that it takes beside what the process had when its model was
loaded and had decoded a picture of one pixel. For Linux.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fewbits import container
from fewbits.bench.memory import peak_bytes, reset_peak
from fewbits.codec import Model, load_model
from fewbits.coding import adaptive_loop
from fewbits.coding.streams import encode_planes
from fewbits.container import FAMILY_IDS, SECTION_HYPER, SECTION_LATENT, SECTION_QUALITIES, Cut, Header
from fewbits.errors import CorruptError, FewbitsError
from fewbits.picture import Metadata
from fewbits.runtime.factorized import FactorizedCodec
from fewbits.runtime.hyperprior import HyperpriorCodec
from fewbits.runtime.pipeline import STRIP_ROWS, strips_of
from fewbits.runtime.places import Places, pack_places
from fewbits.sidecar import pack_sidecar

WIDEST = (1 << 20, 1 << 8)  # pixels, and only one strip
SQUARE = (1 << 14, 1 << 14)


def main() -> None:
    if len(sys.argv) > 1:
        measure(sys.argv[1], Path(sys.argv[2]))
        return
    print(f"numba: {'yes' if adaptive_loop.COMPILED else 'no'}\n")
    print(f"{'model':8} {'bytes':>9} {'pixels':>12} {'seconds':>8} {'MB more':>8}  what, and what the decoder says")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hostile.few"
        for name in ("klt", "slimcae", "few"):
            model = load_model(name)
            for what, data in files(model):
                path.write_bytes(data)
                found = in_a_process(name, path)
                pixels = found["pixels"] or "-"
                print(
                    f"{name:8} {len(data):9} {pixels:>12} {found['seconds']:8.3f} {found['memory']:8.1f}  {what}: {found['says']}"
                )


def files(model: Model) -> Iterator[tuple[str, bytes]]:
    """What it is, and its bytes."""
    if isinstance(model.pipeline, FactorizedCodec):
        yield "100 bytes, as many pixels as they can claim", claiming(model, 100)
    n_strips = len(strips_of(SQUARE[1] // model.pipeline.stride))
    head = [(SECTION_HYPER, b"")] if isinstance(model.pipeline, HyperpriorCodec) else []
    rng = np.random.default_rng(0)
    yield "268 MP, no sections", packed(model, SQUARE, [])
    yield "268 MP, empty sections", packed(model, WIDEST, [*head, (SECTION_LATENT, b"")])
    yield (
        "268 MP, sections of 8 zeros",
        packed(model, WIDEST, [(kind, bytes(8)) for kind, _ in head] + [(SECTION_LATENT, bytes(8))]),
    )
    yield "268 MP, as many sections as needed", packed(model, SQUARE, [*head, *[(SECTION_LATENT, bytes(4))] * n_strips])
    constant = pack_sidecar(np.full((2, 2), 0x1234, np.uint16), Metadata())
    yield (
        "268 MP, empty sections, alpha a constant",
        packed(model, SQUARE, [*constant, *head, *[(SECTION_LATENT, b"")] * n_strips]),
    )
    noise = rng.bytes(40_000)
    yield "268 MP, random bytes", packed(model, WIDEST, [(kind, noise) for kind, _ in head] + [(SECTION_LATENT, b"\1" + noise)])
    yield "65536 sections", packed(model, SQUARE, [(SECTION_LATENT, b"")] * container.MAX_SECTIONS)
    small = model.encode(np.zeros((64, 64, 3), np.uint8))
    header, sections = container.parse(small)
    bombs = pack_sidecar(None, Metadata(*[bytes(1 << 24)] * 3))
    kept = [(kind, bytes(content)) for kind, content in sections if not isinstance(content, Cut)]
    yield "a picture of 64x64, metadata that inflate to 48 MB", packed(model, (64, 64), [*kept, *bombs], header)
    too_long = pack_sidecar(None, Metadata(icc=bytes(1 << 24)))[0]
    yield (
        "the same, the profile's checksum wrong",
        packed(model, (64, 64), [*kept, (too_long[0], too_long[1][:-1] + b"?")], header),
    )
    alpha = pack_sidecar(png_alpha(), Metadata())
    yield "a picture of 64x64, alpha a PNG of 64 MP", packed(model, (64, 64), [*kept, *alpha], header)
    if isinstance(model.pipeline, HyperpriorCodec):
        yield (
            "268 MP, the likeliest hyper symbols, no latent",
            packed(model, WIDEST, [(SECTION_HYPER, likeliest(model.pipeline, WIDEST)), (SECTION_LATENT, b"")]),
        )
        many = Places((header.quality_steps, 0), np.zeros((1 << 12, 1 << 12), np.uint8))
        yield (
            "a picture of 64x64, a map of qualities that inflates to 16 MB",
            packed(model, (64, 64), [(SECTION_QUALITIES, pack_places(many)), *kept], header),
        )


def claiming(model: Model, n_bytes: int) -> bytes:
    """So many bytes that are taken for the widest picture of one strip: its decisions all are the likelier one."""
    height = STRIP_ROWS * int(model.bundle.coding["stride"])
    stream = b"\1" + b"\xff" * (n_bytes - len(packed(model, (1, height), [(SECTION_LATENT, b"")])) - 1)
    level = model.pipeline.level(0, "rgb")
    columns = 1
    with contextlib.suppress(CorruptError):
        while True:
            level.coder.check_length(stream, (level.width, STRIP_ROWS, columns + 1))
            columns += 1
    return packed(model, (columns * height // STRIP_ROWS, height), [(SECTION_LATENT, stream)])


def packed(model: Model, size: tuple[int, int], sections: list[tuple[int, bytes]], like: Header | None = None) -> bytes:
    """A file of that width and height."""
    parts = tuple((kind, len(content)) for kind, content in sections)
    crc, steps = (like.symbols_crc, like.quality_steps) if like else (0, 0)
    header = Header(model.bundle.family, "rgb", model.bundle.model_id, *size, steps, crc, parts)
    assert header.family in FAMILY_IDS
    return container.pack(header, [content for _, content in sections])


def likeliest(pipeline: HyperpriorCodec, size: tuple[int, int]) -> bytes:
    """The shortest hyper stream of a picture of that size at quality 0."""
    rows, columns = pipeline.hyper_grid(*pipeline.grid(size[1], size[0]))
    [tables] = pipeline.level(0, "rgb").z_tables
    return encode_planes([np.full(rows * columns, t.frequencies.argmax()) for t in tables], tables)


def png_alpha() -> np.ndarray:
    alpha = np.zeros((1 << 13, 1 << 13), np.uint8)
    alpha[0, 0] = 1
    return alpha


def in_a_process(name: str, path: Path) -> dict[str, object]:
    out = subprocess.run([sys.executable, __file__, name, str(path)], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(out))


def measure(name: str, path: Path) -> None:
    """One file in this process: prints seconds, peak memory in MB, and what came of it."""
    model, data = load_model(name), path.read_bytes()
    model.decode(model.encode(np.zeros((1, 1, 3), np.uint8)))
    if not reset_peak():
        raise SystemExit("this system cannot say what the decoding alone takes")
    before, begun, pixels = peak_bytes(), time.process_time(), 0
    try:
        header = container.parse_header(data)
        pixels = header.width * header.height
        model.decode(data)
        says = "a picture"
    except FewbitsError as error:
        says = f"{type(error).__name__}: {error}"
    seconds, memory = time.process_time() - begun, (peak_bytes() - before) / 1e6
    print(json.dumps({"seconds": seconds, "memory": memory, "pixels": pixels, "says": says}))


if __name__ == "__main__":
    main()
