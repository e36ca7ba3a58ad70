# SPDX-License-Identifier: MIT
"""Settings of families and of training: frozen dataclasses whose fields say what they are (`fewbits train FAMILY --help`)."""

import dataclasses
from typing import Any, TypeVar, get_args, get_type_hints

from fewbits.errors import TrainingError

T = TypeVar("T")


def setting(default: T, text: str) -> T:
    """A dataclass field with a default and what it is, for people."""
    return dataclasses.field(default=default, metadata={"text": text})


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
