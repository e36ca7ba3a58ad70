# SPDX-License-Identifier: MIT
"""The one table of families that can be trained. Adding one: a file here and a row below."""

from typing import Any, Final

from fewbits.families.few import Few, FewConfig

FAMILIES: Final[dict[str, tuple[type[Any], type[Any]]]] = {"few": (FewConfig, Few)}
