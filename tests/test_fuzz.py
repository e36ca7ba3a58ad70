# SPDX-License-Identifier: MIT
"""Damaged and hostile files: whatever the bytes are, the outcome is a picture or a FewbitsError.

`python tests/test_fuzz.py N` tries N mutations. fuzz/ searches by coverage; what it kept is replayed here.
"""

import importlib.util
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fewbits.codec import Model, load_model
from fewbits.container import Header, parse, parse_header
from fewbits.errors import CorruptError, FewbitsError, FormatError

HEAD = 34  # bytes of a header before its section list
N_MUTATIONS = 2500
MAX_PX = 20_000  # a mutation that asks for more would only take longer

Mutation = Callable[[bytearray, np.random.Generator], None]


def seeds(model: Model) -> list[bytes]:
    """Small files of all kinds: one pixel, odd sizes, grey, both ends of the quality, two strips, a section to skip."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, shape).astype(np.uint8)

    files = [
        model.encode(noise(1, 1, 3)),
        model.encode(noise(9, 17, 3), 0),
        model.encode(noise(40, 33, 3), 60),
        model.encode(noise(33, 20), 100),
        model.encode(np.repeat(noise(130, 1, 3), 4, 0)[:520], 30),
    ]
    header, sections = parse(files[2])
    extra = bytearray(files[2])
    extra[30:34] = struct.pack("<I", len(sections) + 1)
    extra[HEAD:HEAD] = struct.pack("<BI", 200, 8)
    extra[header.header_bytes + 5 : header.header_bytes + 5] = bytes(8)
    fix_checksum(extra)
    return [*files, bytes(extra)]


def list_end(data: bytearray) -> int:
    """Where the section list ends and the header's checksum lies."""
    return HEAD + 5 * min(struct.unpack_from("<I", data, 30)[0], 1 << 16)


def fix_checksum(data: bytearray) -> None:
    if len(data) >= HEAD:
        end = list_end(data)
        data[end : end + 4] = struct.pack("<I", zlib.crc32(data[:end]))


def flip_anywhere(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 5)):
        data[place] ^= 1 << rng.integers(8)


def truncate(data: bytearray, rng: np.random.Generator) -> None:
    del data[rng.integers(len(data)) :]


def insert(data: bytearray, rng: np.random.Generator) -> None:
    place = rng.integers(len(data) + 1)
    data[place:place] = rng.bytes(int(rng.integers(1, 20)))


def delete(data: bytearray, rng: np.random.Generator) -> None:
    place = rng.integers(len(data))
    del data[place : place + rng.integers(1, 20)]


def damage_sections(data: bytearray, rng: np.random.Generator) -> None:
    """Passes the header's checksum: the coder and the checksum of the symbols must notice."""
    first = list_end(data) + 4
    for place in rng.integers(first, len(data), rng.integers(1, 9)):
        data[place] = rng.integers(256)


def damage_header(data: bytearray, rng: np.random.Generator) -> None:
    """Bytes of the header, with a right checksum."""
    for place in rng.integers(4, list_end(data), rng.integers(1, 4)):
        data[place] = rng.integers(256)
    fix_checksum(data)


def change_size(data: bytearray, rng: np.random.Generator) -> None:
    sides = [0, 1, 15, 16, 17, 64, 65, 100, int(rng.integers(1, 140)), 1 << 20, (1 << 20) + 1, (1 << 32) - 1]
    struct.pack_into("<I", data, int(rng.choice([16, 20])), int(rng.choice(sides)))
    fix_checksum(data)


def change_quality(data: bytearray, rng: np.random.Generator) -> None:
    struct.pack_into("<H", data, 24, int(rng.choice([0, 1, 9999, 10_000, 10_001, 65535, int(rng.integers(10_000))])))
    fix_checksum(data)


def move_a_boundary(data: bytearray, rng: np.random.Generator) -> None:
    """Bytes of one section become bytes of the next."""
    n_sections = struct.unpack_from("<I", data, 30)[0]
    one = HEAD + 5 * int(rng.integers(n_sections - 1)) + 1
    first, second = struct.unpack_from("<I", data, one)[0], struct.unpack_from("<I", data, one + 5)[0]
    moved = int(rng.choice([-8, -4, -1, 1, 4, 8]))
    if first + moved >= 0 and second - moved >= 0:
        struct.pack_into("<I", data, one, first + moved)
        struct.pack_into("<I", data, one + 5, second - moved)
    fix_checksum(data)


def drop_or_add_words(data: bytearray, rng: np.random.Generator) -> None:
    """The last section becomes shorter or longer by whole words, its length in the list too."""
    place = list_end(data) - 4
    size = struct.unpack_from("<I", data, place)[0]
    words = int(rng.integers(-size // 4, 8))
    if words < 0:
        del data[4 * words :]
    else:
        data += rng.bytes(4 * words)
    struct.pack_into("<I", data, place, size + 4 * words)
    fix_checksum(data)


def change_kinds(data: bytearray, rng: np.random.Generator) -> None:
    for k in range(struct.unpack_from("<I", data, 30)[0]):
        if rng.random() < 0.5:
            data[HEAD + 5 * k] = rng.choice([0, 1, 2, 3, 127, 128, 255])
    fix_checksum(data)


MUTATIONS: list[Mutation] = [
    flip_anywhere, truncate, insert, delete, damage_sections, damage_sections, damage_header, change_size, change_quality,
    move_a_boundary, drop_or_add_words, change_kinds,
]  # fmt: skip


def asks_for_too_much(data: bytes) -> bool:
    try:
        header = parse_header(data)
    except FormatError:
        return False
    return header.width * header.height > MAX_PX


def outcome(model: Model, data: bytes) -> Image.Image | FewbitsError:
    try:
        return model.decode(data)
    except FewbitsError as error:
        return error


def fuzz(model: Model, n_mutations: int, seed: int) -> Counter[str]:
    """Counts of outcomes by kind; any other exception passes through, after its bytes are printed."""
    rng = np.random.default_rng(seed)
    files = seeds(model)
    pictures = [model.decode(data) for data in files]
    counts: Counter[str] = Counter()
    for _ in range(n_mutations):
        which = int(rng.integers(len(files)))
        data = bytearray(files[which])
        mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
        mutation(data, rng)
        if rng.random() < 0.2 and len(data) > HEAD:
            damage = MUTATIONS[rng.integers(4)]
            damage(data, rng)
        if asks_for_too_much(bytes(data)):
            counts["too large to try"] += 1
            continue
        try:
            found = outcome(model, bytes(data))
        except BaseException:
            print(f"{mutation.__name__} of file {which}: {bytes(data).hex()}")
            raise
        if isinstance(found, FewbitsError):
            assert str(found) and "\n" not in str(found)
        else:
            header = parse_header(bytes(data))
            assert found.size == (header.width, header.height)
            if bytes(data[:HEAD]) == files[which][:HEAD]:  # the same symbols, or their checksum would differ
                assert np.array_equal(found, pictures[which])
        counts[f"{mutation.__name__}: {type(found).__name__}"] += 1
    return counts


def test_damaged_files_are_pictures_or_errors(model: Model) -> None:
    counts = fuzz(model, N_MUTATIONS, seed=1)
    tried = sum(counts.values()) - counts["too large to try"]
    assert tried >= 2000
    reached = Counter(name.split(": ")[0] for name in counts.elements() if name.endswith((": CorruptError", ": Image")))
    for mutation in (damage_sections, drop_or_add_words, move_a_boundary, change_quality, change_size):
        assert reached[mutation.__name__] > 20, f"{mutation.__name__} hardly reaches the decoder"
    assert counts["damage_sections: CorruptError"] > counts["damage_sections: Image"]


def test_every_cut_of_a_small_file_is_refused(model: Model) -> None:
    data = seeds(model)[2]
    for length in range(len(data)):
        with pytest.raises(FormatError):
            model.decode(data[:length])


def test_every_flipped_byte_of_a_small_file_is_refused_or_harmless(model: Model) -> None:
    """Harmless: the last words of a stream have bits that no symbol depends on."""
    data = seeds(model)[1]
    picture, harmless = model.decode(data), 0
    header: Header = parse_header(data)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        found = outcome(model, bytes(damaged))
        if isinstance(found, FewbitsError):
            assert isinstance(found, CorruptError) or place < header.header_bytes
        else:
            assert np.array_equal(found, picture)
            harmless += 1
    assert harmless <= 4 * 2 * len(header.sections)


# What fuzz/run.py found worth keeping

FUZZ = Path(__file__).parents[1] / "fuzz"
KEPT = {folder.name: sorted(folder.iterdir()) for folder in sorted((FUZZ / "corpus").iterdir())}


@pytest.fixture(scope="module")
def targets() -> ModuleType:
    """fuzz/targets.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("targets", FUZZ / "targets.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_target_has_a_corpus(targets: ModuleType) -> None:
    assert set(KEPT) == set(targets.TARGETS)
    assert sum(path.stat().st_size for paths in KEPT.values() for path in paths) < 200_000


@pytest.mark.parametrize("target", KEPT)
def test_the_kept_corpus_is_read_or_refused(targets: ModuleType, target: str) -> None:
    found = [targets.check(target, path.read_bytes()) for path in KEPT[target]]
    refused = sum(error is not None for error in found)
    assert refused and (target == "manifest" or refused < len(found)), "it reaches one of the two ends only"


@pytest.mark.parametrize("name", ["few", "few-psnr", "klt", "cae-pca", "slimcae"])
@pytest.mark.parametrize("steps", [0, 10_000])
def test_symbols_that_no_picture_has_are_a_picture(name: str, steps: int) -> None:
    """The widest symbols everywhere made the slimmable decoder divide infinity by infinity: pixels of no number."""
    pipeline = load_model(name, threads=1).pipeline
    level = pipeline.level(steps, "rgb")
    y = pipeline.analyse(np.zeros((64, 64, 3), np.uint8), level, lambda _: None)
    for values in (np.full(y.shape, 1e9), np.full(y.shape, -1e9), np.random.default_rng(0).choice([-1e9, 1e9], y.shape)):
        symbols, sections = pipeline.quantize(values.astype(np.float32), level)
        whole = (slice(0, 64), slice(0, 64))
        for dtype in (np.uint8, np.uint16):
            bands = pipeline.decode(sections, (64, 64), whole, level, lambda _: None, symbols_crc=symbols.crc(), dtype=dtype)
            assert np.concatenate(list(bands)).shape == (64, 64, 3)


if __name__ == "__main__":
    shipped = load_model("few", threads=1)
    for kind, count in sorted(fuzz(shipped, int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 2).items()):
        print(f"{count:8} {kind}")
