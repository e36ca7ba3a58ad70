# SPDX-License-Identifier: MIT
"""The tree of errors: each comes out of another process as it was, and messages have one line."""

import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from fewbits import errors
from fewbits.codec import decode
from fewbits.container import MAGIC, VERSION
from fewbits.errors import FewbitsError, LimitError, TruncatedError


def tree(root: type[FewbitsError] = FewbitsError) -> Iterator[type[FewbitsError]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


def made(kind: type[FewbitsError]) -> FewbitsError:
    if issubclass(kind, TruncatedError):
        return kind("header", need=37, got=20)
    return kind("width", 70_000, 16_384) if issubclass(kind, LimitError) else kind("what is wrong")


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert {kind.__name__ for kind in tree()} == {name for name in vars(errors) if name.endswith("Error")}


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_error_can_be_pickled_and_copied(kind: type[FewbitsError]) -> None:
    error = made(kind)
    error.__cause__ = OSError(28, "No space left on device")
    error.add_note("of the third file")
    twins = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (*twins, copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind and str(twin) == str(error) and twin.args == error.args
        assert twin.__notes__ == ["of the third file"]


def test_a_cut_file_fails_in_another_process_as_in_this_one() -> None:
    """Issue of a review: a TruncatedError broke ProcessPoolExecutor, and multiprocessing.Pool waited for ever."""
    data = MAGIC + bytes([VERSION]) + bytes(15)
    with pytest.raises(TruncatedError) as here:
        decode(data)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, pytest.raises(TruncatedError) as there:
        pool.submit(decode, data).result(timeout=60)
    assert str(there.value) == str(here.value)
