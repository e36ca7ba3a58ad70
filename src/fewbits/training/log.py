# SPDX-License-Identifier: MIT
"""What a run tells of itself while it goes on: RUN/log.csv, one row a quantity, and TensorBoard events in RUN/tensorboard."""

import csv
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from fewbits.errors import TrainingError

LOG = "log.csv"
COLUMNS = ("phase", "step", "seconds", "quantity", "value")


class SilentLog:
    """Writes nothing: for processes that train along with the one that does."""

    def write(self, phase: str, step: int, seconds: float, values: dict[str, float]) -> None:
        """Add quantities at a step, after so many seconds of training; phase: train or anneal."""

    def __enter__(self) -> "SilentLog":
        return self

    def __exit__(self, *_: Any) -> None:
        pass


class Log:
    """Appends to a run's log, on disk after each write()."""

    def __init__(self, out: Path) -> None:
        self._path = out / LOG
        fresh = not self._path.exists()
        self._file = self._path.open("a", newline="")
        self._rows = csv.writer(self._file)
        if fresh:
            self._rows.writerow(COLUMNS)
        self._board = SummaryWriter(out / "tensorboard")

    def write(self, phase: str, step: int, seconds: float, values: dict[str, float]) -> None:
        """As SilentLog.write. Raises TrainingError where it cannot be written."""
        try:
            for name, value in values.items():
                self._rows.writerow([phase, step, f"{seconds:.1f}", name, f"{value:.6g}"])
                self._board.add_scalar(f"{phase}/{name}", value, step)
            self._file.flush()
        except OSError as error:
            raise TrainingError(f"{self._path} cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: Any) -> None:
        with suppress(OSError):  # what could not be written has been told of
            self._file.close()
        self._board.close()
