"""A config's fields as lines of `--help`, from the models themselves."""

import json
from collections.abc import Iterable, Iterator

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
    default = "…" if field.default_factory else json.dumps(field.default, default=lambda _: "…").strip('"')
    default = "none" if default in ("", "null") else default
    shown = "required" if field.is_required() else f"default {default}"
    stated = field.default is None and "default" in (field.description or "")
    return f"  {name:<24}{field.description or ''}" + ("" if stated else f" ({shown})")
