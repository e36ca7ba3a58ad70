# SPDX-License-Identifier: MIT
"""Every error that fewbits raises on purpose, in one tree.

    FewbitsError
    ├── FormatError                 the bytes are at fault
    │   ├── NotFewbitsError         they do not start with our magic
    │   ├── TruncatedError          they end too early
    │   ├── UnsupportedVersionError they were written by a newer fewbits
    │   ├── LimitError              they ask for more than the limits allow
    │   └── CorruptError            a checksum or a rule of docs/format.md is broken
    ├── ImageError (ValueError)     the caller's pixels or options are at fault
    ├── ModelError                  a bundle is missing, damaged or of another family
    └── TrainingError               a training run cannot start or go on

and one warning, TargetWarning (UserWarning): a target of quality is out of reach.
Messages name the field, the value and what is allowed, in one line.
"""

import contextlib
from collections.abc import Iterator
from typing import Any


class FewbitsError(Exception):
    """Base of all errors that fewbits raises on purpose. They travel between processes, whatever their class is built from."""

    def __reduce__(self) -> tuple[Any, ...]:
        """The class and the text, without __init__: a pool of processes hangs on an error that cannot be made again."""
        return type(self).__new__, (type(self), *self.args), self.__dict__ or None


class FormatError(FewbitsError):
    """The bytes of a file break a rule of docs/format.md."""


class NotFewbitsError(FormatError):
    """The bytes do not start with the fewbits magic."""


class TruncatedError(FormatError):
    """The bytes end before the field that is named."""

    def __init__(self, field: str, *, need: int, got: int) -> None:
        super().__init__(f"truncated file: {need} bytes are needed for the {field}, {got} are left")


class UnsupportedVersionError(FormatError):
    """The file's format version is not one that this release reads."""


class LimitError(FormatError):
    """A size in the header is above what the decoder allows."""

    def __init__(self, field: str, value: int, allowed: int) -> None:
        super().__init__(f"{field} is {value}, at most {allowed} is allowed")


class CorruptError(FormatError):
    """A checksum or a rule of the format does not hold."""


class ImageError(FewbitsError, ValueError):
    """The caller's pixels or options are at fault."""


class ModelError(FewbitsError):
    """A bundle is missing, damaged, or of another family."""


class TrainingError(FewbitsError):
    """A training run cannot start or go on."""


class TargetWarning(UserWarning):
    """A target of quality is out of reach; the file is the best possible."""


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Messages about a file's content begin with its name."""
    try:
        yield
    except (FormatError, ImageError, ModelError) as error:
        text = str(error).removeprefix("image: ")
        raise FewbitsError(text if text.startswith(f"{name}: ") else f"{name}: {text}") from error
