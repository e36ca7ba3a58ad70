# SPDX-License-Identifier: MIT
"""Every family in the one table offers what training and export ask for, and has a number on the wire."""

import pytest

torch = pytest.importorskip("torch")

from fewbits.container import FAMILY_IDS  # noqa: E402
from fewbits.families import FAMILIES, Family  # noqa: E402


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_offers_everything(name: str) -> None:
    config, model = FAMILIES[name]
    assert isinstance(model(config()), Family)
    assert not isinstance(torch.nn.Linear(1, 1), Family)  # the check can fail
    assert name in FAMILY_IDS
