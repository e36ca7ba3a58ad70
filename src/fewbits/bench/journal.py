# SPDX-License-Identifier: MIT
"""What has been measured, kept line by line, so that an interrupted run goes on and nothing is measured twice.

A journal is a file of JSON lines {"key": ..., values...}; later lines of a key add to earlier ones. A line that a kill cut
short is dropped. Keys come from whoever measures, and hold everything that the values depend on.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from fewbits.errors import FewbitsError
from fewbits.files import held


def key_of(*parts: Any) -> str:
    """A short name for what a measurement depends on; the same parts give the same key everywhere."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Journal:
    """Everything in the file at `path`, which need not exist; `add` also writes.

    One process has it at a time, where files can be locked. Raises FewbitsError, and OSError where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.values: dict[str, dict[str, Any]] = {}
        try:
            self._file = held(path)
        except BlockingIOError as error:
            raise FewbitsError(f"{path}: another measurement is writing there: wait for it, or choose another --out") from error
        whole = 0  # bytes of complete lines
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                self.values.setdefault(entry.pop("key"), {}).update(entry)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                self._file.close()
                raise FewbitsError(f"{path}: line {number} is damaged: delete the file, or that line") from error
            whole += len(line)
        self._file.truncate(whole)

    def get(self, key: str) -> dict[str, Any]:
        """What is known under a key; empty where nothing is."""
        return self.values.get(key, {})

    def add(self, key: str, values: dict[str, Any]) -> None:
        """Remember, and write at once. Values are JSON's, and inf or NaN as Python's json writes them."""
        self.values.setdefault(key, {}).update(values)
        self._file.write(json.dumps({"key": key, **values}).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
