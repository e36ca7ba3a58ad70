# SPDX-License-Identifier: MIT
"""A bundle's manifest: what it says, and the model's id (docs/bundle.md). Loads no numpy, which `fewbits info` can do without."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from fewbits.container import QUALITY_STEPS
from fewbits.errors import ModelError

MANIFEST: Final = "manifest.json"
VARIANTS: Final = "variants"  # the manifest's entry for them
RANGES: Final = "ranges"  # and for the magnitudes that they are made for
PRECISIONS: Final = ("fp32", "int8")  # of networks: that of the files that make the model's id, and the variants there may be
BUNDLE_VERSION: Final = 2  # of what is written; the first one has no runs of zeros, which readers of it would not notice
BUNDLE_VERSIONS: Final = (1, BUNDLE_VERSION)


def model_id(family: str, coding: Mapping[str, Any], hashes: Mapping[str, str]) -> bytes:
    """First 8 bytes of the SHA-256 of everything that decides how a file decodes; the model card is left out."""
    text = json.dumps({"family": family, "coding": coding, "files": hashes}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:8]


def files_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """All files that a manifest names, with their hashes."""
    return {**manifest["files"], **manifest.get(VARIANTS, {})}


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """The manifest as a dict. Raises ModelError; `where` names the bundle in messages."""
    try:
        manifest = json.loads(data)
        if manifest["bundle"] not in BUNDLE_VERSIONS:
            known = " and ".join(map(str, BUNDLE_VERSIONS))
            raise ModelError(f"{where}: bundle version is {manifest['bundle']}, this release reads {known}")
        fields = [("family", str), ("coding", dict), ("files", dict), ("card", dict)]
        for name, kind in fields + [(extra, dict) for extra in (VARIANTS, RANGES) if extra in manifest]:
            if not isinstance(manifest[name], kind):
                raise ModelError(
                    f"{where}: {name} in {MANIFEST} is a {type(manifest[name]).__name__}, it must be a {kind.__name__}"
                )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{where}: {MANIFEST} is damaged: {error!r}") from error
    return dict(manifest)


def manifest_id(manifest: Mapping[str, Any]) -> bytes:
    """The model id that a manifest stands for."""
    return model_id(manifest["family"], manifest["coding"], manifest["files"])


def nearest_level(quality_steps: int, n_levels: int) -> int:
    """The number of the level that a quality in hundredths stands for, in whole numbers: halves go up."""
    return (2 * quality_steps * (n_levels - 1) + QUALITY_STEPS) // (2 * QUALITY_STEPS)
