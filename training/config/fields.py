"""A config's fields as lines of `--help`, from the models themselves."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["field_line", "field_lines"]


def field_lines(parts: Iterable[tuple[str, type[BaseModel]]]) -> Iterator[str]:
    """A line for each field of each part; a part's name stands before its fields ('' for the whole)."""
    for prefix, kind in parts:
        for name, field in kind.model_fields.items():
            yield field_line(f"{prefix}.{name}" if prefix else name, field)


def field_line(name: str, field: FieldInfo) -> str:
    """Name, meaning and default."""
    default = "…" if field.default_factory else _shown(field.default)
    shown = "required" if field.is_required() else f"default {default}"
    stated = not field.default and "default" in (field.description or "")
    told = [field.description] if field.description else []
    return f"  {name:<23} " + " ".join(told if stated else [*told, f"({shown})"])


def _shown(default: Any) -> str:
    text = json.dumps(
        default, default=lambda one: str(one) if isinstance(one, Path) else "…", ensure_ascii=False
    )
    return "none" if default in ("", None) else text.strip('"')
