# SPDX-License-Identifier: MIT
"""A bundle: a trained model as files. This module parses and checks them; it runs nothing (docs/bundle.md).

manifest.json   what it is: family, coding parameters, hashes of the other files, and a model card
*.onnx          its networks
tables.npz      its frozen tables: integers that choose or are probabilities, and per-level vectors
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fewbits.errors import ModelError

MANIFEST: Final = "manifest.json"
TABLES: Final = "tables.npz"
BUNDLE_VERSION: Final = 1


@dataclass(frozen=True)
class Bundle:
    """A parsed bundle. coding: the numbers of its pipeline; networks: ONNX files by name; tables: arrays by name."""

    family: str
    model_id: bytes
    coding: Mapping[str, Any]
    card: Mapping[str, Any]
    networks: Mapping[str, bytes]
    tables: Mapping[str, np.ndarray]


def model_id(family: str, coding: Mapping[str, Any], hashes: Mapping[str, str]) -> bytes:
    """First 8 bytes of the SHA-256 of everything that decides how a file decodes; the model card is left out."""
    text = json.dumps({"family": family, "coding": coding, "files": hashes}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:8]


def pack_bundle(family: str, coding: Mapping[str, Any], card: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """All files of a bundle by name, with a manifest that holds the hashes of `files` (networks and tables)."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    manifest = {"bundle": BUNDLE_VERSION, "family": family, "coding": coding, "files": hashes, "card": card}
    return {MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode(), **files}


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """The manifest as a dict. Raises ModelError; `where` names the bundle in messages."""
    try:
        manifest = json.loads(data)
        if manifest["bundle"] != BUNDLE_VERSION:
            raise ModelError(f"{where}: bundle version is {manifest['bundle']}, this release reads {BUNDLE_VERSION}")
        for field, kind in (("family", str), ("coding", dict), ("files", dict), ("card", dict)):
            if not isinstance(manifest[field], kind):
                raise ModelError(
                    f"{where}: {field} in {MANIFEST} is a {type(manifest[field]).__name__}, it must be a {kind.__name__}"
                )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{where}: {MANIFEST} is damaged: {error!r}") from error
    return dict(manifest)


def manifest_id(manifest: Mapping[str, Any]) -> bytes:
    """The model id that a manifest stands for."""
    return model_id(manifest["family"], manifest["coding"], manifest["files"])


def parse_bundle(files: Mapping[str, bytes], where: str) -> Bundle:
    """A bundle from its files' bytes. Raises ModelError where a file is missing or its hash differs."""
    if MANIFEST not in files:
        raise ModelError(f"{where}: no {MANIFEST}: this is not a bundle")
    manifest = parse_manifest(files[MANIFEST], where)
    for name, expected in manifest["files"].items():
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
    return Bundle(manifest["family"], manifest_id(manifest), manifest["coding"], manifest["card"], networks, tables)
