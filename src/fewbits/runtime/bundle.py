# SPDX-License-Identifier: MIT
"""A bundle: a trained model as files. This module parses and checks them; it runs nothing (docs/bundle.md).

manifest.json   what it is: family, coding parameters, hashes of the other files, and a model card
*.onnx          its networks
tables.npz      its frozen tables: integers that choose or are probabilities, and per-level vectors
*.PRECISION.onnx  variants of networks: the same in another precision, for who prefers speed; no part of the model's id
*.gradient.onnx   likewise, but their gradient, for encoders that take more time
*.integer.onnx    likewise, but the same numbers in operators of 8-bit integers
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from fewbits.errors import ModelError
from fewbits.processor import has_int8
from fewbits.runtime.manifest import (
    BUNDLE_VERSION,
    MANIFEST,
    PRECISIONS,
    RANGES,
    VARIANTS,
    files_of,
    manifest_id,
    parse_manifest,
)
from fewbits.runtime.variants import SYNTHESIS_WEIGHTS, with_weights

TABLES: Final = "tables.npz"
PIXELS: Final = "pixels"  # an output that synthesis may have beside its first: levels of 8 bits, uint8 (height, width, 3)
GRADIENT: Final = "gradient"  # of synthesis: what a file of it has in its name in place of a precision, and the network's name
INTEGER: Final = "integer"  # of scales, likewise: the same indices, rounded, in real 8-bit integers (ADR 36)
WIDE: Final = f".{PRECISIONS[0]}"  # ends the name of a network beside its variant, for what is beyond the variant's range
_OF: Final = {SYNTHESIS_WEIGHTS: "synthesis"}  # the network that a variant has its weights from, where it stands for none
# What there may be beside networks: a precision of others than synthesis could change how files are parsed.
_BESIDE: Final = {"synthesis": (*PRECISIONS[1:], GRADIENT), SYNTHESIS_WEIGHTS: PRECISIONS[1:], "scales": (INTEGER,)}


@dataclass(frozen=True)
class Bundle:
    """A parsed bundle. coding: the numbers of its pipeline; networks: ONNX files by name; tables: arrays by name.

    variants: ONNX files without weights, by precision and name of the network that they stand for. ranges: by that name the
    largest magnitudes float32 (channels,) of its first input that variants are made for; what is not there has no such limits.
    gradient: an ONNX file without weights, too, of how errors change with what synthesis reads; b"" where there is none.
    integer_scales: likewise, of what scales gives, rounded to indices.
    """

    family: str
    model_id: bytes
    coding: Mapping[str, Any]
    card: Mapping[str, Any]
    networks: Mapping[str, bytes]
    tables: Mapping[str, np.ndarray]
    variants: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    ranges: Mapping[str, np.ndarray] = field(default_factory=dict)
    gradient: bytes = b""
    integer_scales: bytes = b""

    def at(self, precision: str) -> "Bundle":
        """The same model with its networks in that precision where it has such variants. Raises ModelError.

        A network that has a variant stays beside it, its name with WIDE. What makes weights of a variant is one more.
        """
        graphs = self.variants.get(precision, {})
        sources = {name: self.networks[_OF.get(name, name)] for name in graphs}
        swapped = {name: with_weights(graph, sources[name], signed=has_int8()) for name, graph in graphs.items()}
        beside = {f"{name}{WIDE}": self.networks[name] for name in swapped if name in self.networks}
        return replace(self, networks={**self.networks, **swapped, **beside})

    @property
    def float_synthesis(self) -> bytes:
        """Synthesis, and not its variant."""
        return self.networks.get(f"synthesis{WIDE}", self.networks["synthesis"])

    def gradient_network(self) -> bytes:
        """The gradient with its weights. Raises ModelError."""
        return with_weights(self.gradient, self.float_synthesis, signed=True)

    def integer_network(self) -> bytes:
        """integer_scales with its weights. Raises ModelError."""
        return with_weights(self.integer_scales, self.networks["scales"], signed=has_int8())


def pack_bundle(
    family: str,
    coding: Mapping[str, Any],
    card: Mapping[str, Any],
    files: Mapping[str, bytes],
    variants: Mapping[str, bytes] | None = None,
    ranges: Mapping[str, np.ndarray] | None = None,
) -> dict[str, bytes]:
    """All files of a bundle by name, with a manifest that holds the hashes of `files` (networks and tables) and of variants.

    ranges: see Bundle; four digits of them are kept, such that what is within them stays so.
    """
    variants = variants or {}
    manifest: dict[str, Any] = {"bundle": BUNDLE_VERSION, "family": family, "coding": coding, "files": _hashes(files)}
    manifest |= {VARIANTS: _hashes(variants)} if variants else {}
    if ranges:
        manifest[RANGES] = {name: [_in_four_digits(limit) for limit in limits] for name, limits in ranges.items()}
    manifest["card"] = card
    return {MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode(), **files, **variants}


def _in_four_digits(limit: float) -> float:
    """The nearest number of four digits, or the next one where that is smaller."""
    nearest = float(f"{limit:.4g}")
    return nearest if np.float32(nearest) >= np.float32(limit) else float(f"{1.0005 * float(limit):.4g}")


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


def parse_bundle(files: Mapping[str, bytes], where: str) -> Bundle:
    """A bundle from its files' bytes. Raises ModelError where a file is missing or its hash differs."""
    if MANIFEST not in files:
        raise ModelError(f"{where}: no {MANIFEST}: this is not a bundle")
    manifest = parse_manifest(files[MANIFEST], where)
    for name, expected in files_of(manifest).items():
        if name not in files:
            raise ModelError(f"{where}: {name} is missing")
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise ModelError(f"{where}: {name} is damaged: its SHA-256 is not the manifest's")
    try:
        with np.load(io.BytesIO(files[TABLES]), allow_pickle=False) as archive:
            tables = {name: archive[name] for name in archive.files}
    except (KeyError, ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{where}: {TABLES} cannot be read: {error}") from error
    networks = {name.removesuffix(".onnx"): files[name] for name in manifest["files"] if name.endswith(".onnx")}
    variants, others = dict[str, dict[str, bytes]](), dict.fromkeys((GRADIENT, INTEGER), b"")
    for file in manifest.get(VARIANTS, {}):
        network, _, precision = file.removesuffix(".onnx").rpartition(".")
        if precision not in _BESIDE.get(network, ()) or _OF.get(network, network) not in networks:
            raise ModelError(f"{where}: {file} in {MANIFEST} is no variant of a network of this bundle")
        if precision in others:
            others[precision] = files[file]
        else:
            variants.setdefault(precision, {})[network] = files[file]
    try:
        ranges = {name: np.array(limits, np.float32) for name, limits in manifest.get(RANGES, {}).items()}
        if any(limits.ndim != 1 for limits in ranges.values()):
            raise ValueError("one has another shape")
    except (ValueError, TypeError) as error:
        raise ModelError(f"{where}: {RANGES} in {MANIFEST} must be lists of numbers: {error}") from error
    identity = manifest_id(manifest)
    of_model = manifest["family"], identity, manifest["coding"], manifest["card"]
    return Bundle(*of_model, networks, tables, variants, ranges, *others.values())
