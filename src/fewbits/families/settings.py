# SPDX-License-Identifier: MIT
"""Settings of families and of training: frozen dataclasses whose fields say what they are (`fewbits train FAMILY --help`), and
which numbers they may be."""

import dataclasses
import math
import sys
from itertools import pairwise
from typing import Any, TypeVar, get_args, get_type_hints

from fewbits.errors import TrainingError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Allowed:
    """Which numbers a setting may be, or each of its numbers where it is several, which may have to rise."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    rising: bool = False

    def holds(self, numbers: tuple[float, ...]) -> bool:
        low, most = -math.inf if self.least is None else self.least, sys.float_info.max if self.most is None else self.most
        inside = all(low <= number <= most and (self.above is None or number > self.above) for number in numbers)
        return inside and (not self.rising or all(first < second for first, second in pairwise(numbers)))

    def __str__(self) -> str:
        most = None if self.most is None or math.isinf(self.most) else self.most
        if self.least is not None and most is not None:
            return f"{self.least} to {most}"
        parts = (("at least", self.least), ("above", self.above), ("at most", most))
        return " and ".join(f"{words} {number}" for words, number in parts if number is not None) or "a finite number"


def setting(
    default: T,
    text: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    rising: bool = False,
) -> T:
    """A dataclass field with a default and what it is, for people; and what it may be, for Settings. Infinite only where `most`
    is, and no number at all only where that is the default."""
    return dataclasses.field(default=default, metadata={"text": text, "allowed": Allowed(least, above, most, rising)})


class Settings:
    """Base of the dataclasses: what a field does not allow is a TrainingError that names it."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, allowed = getattr(self, field.name), field.metadata["allowed"]
            if isinstance(value, str):
                continue
            if not isinstance(value, tuple):
                if not allowed.holds((value,)):
                    raise TrainingError(f"{field.name} is {value}, it must be {allowed}")
            elif not value and field.default:
                raise TrainingError(f"{field.name} is empty, it must be one number or more")
            elif not allowed.holds(value):
                rising = ", and they must rise" if allowed.rising else ""
                raise TrainingError(f"{field.name} is {','.join(map(str, value))}: each must be {allowed}{rising}")


def described(config: Any) -> list[tuple[str, str]]:
    """Of a config's fields: NAME=DEFAULT as --set takes it, and what it is."""
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        shown = ",".join(map(_shown, value)) if isinstance(value, tuple) else _shown(value)
        found.append((f"{field.name}={shown}", field.metadata["text"]))
    return found


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def override(config: Any, settings: list[str]) -> Any:
    """A copy of a frozen config with `name=value` settings applied, each converted to the field's type."""
    changes: dict[str, Any] = {}
    fields = get_type_hints(type(config))
    for entry in settings:
        name, equals, text = entry.partition("=")
        if not equals or name not in fields:
            raise TrainingError(f"--set {entry}: it must be NAME=VALUE with NAME one of {', '.join(fields)}")
        kind, *each = fields[name], *get_args(fields[name])[:1]  # tuple[int, ...]: its values are of the first argument
        try:
            parts = text.split(",") if text or getattr(config, name) else []  # none only where there may be none
            changes[name] = tuple(map(each[0], parts)) if each else kind(text)
        except ValueError:
            raise TrainingError(f"--set {entry}: {text!r} is not a {(each or [kind])[0].__name__}") from None
    return dataclasses.replace(config, **changes)
