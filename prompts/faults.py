"""How a fault reads: the field, what was expected, what came, the cure.

Every message a user sees about a file, a config or a request is built here, so that they all read alike.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["fault", "in_one_line", "shown", "validation_faults"]

_SHOWN_CHARACTERS = 80

_MOST_FAULTS = 100
_CURES = {
    "extra_forbidden": "remove the key or correct its spelling",
    "missing": "add the key",
}


def shown(value: object) -> str:
    """Return `repr(value)` cut to a length that fits a message (user input may be of any size)."""
    text = repr(value[: 2 * _SHOWN_CHARACTERS] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def fault(field: str, *, expected: str, came: str, cure: str) -> str:
    """Return one fault as a sentence: `field: expected …, came …; cure`."""
    return f"{field}: expected {expected}, came {came}; {cure}"


def validation_faults(error: "ValidationError", *, source: str = "", kind: str = "file") -> list[str]:
    """Translate a pydantic error into one fault per broken field.

    `source` (a file's name, say) is put before each field's dotted name; `kind` says what is to be
    corrected where it is no JSON.
    """
    return [_one_fault(detail, source, kind) for detail in error.errors(include_url=False)]


def in_one_line(faults: Sequence[str]) -> str:
    """The faults in one sentence; of very many the first, and how many more there are."""
    told = list(faults[:_MOST_FAULTS])
    if (more := len(faults) - len(told)) > 0:
        told.append(f"and {more} more faults")
    return "; ".join(told)


def _one_fault(detail: object, source: str, corrected: str) -> str:
    assert isinstance(detail, dict)  # pydantic's ErrorDetails
    field = ".".join(str(part) for part in detail["loc"])
    where = ": ".join(part for part in (source, field) if part) or "(top level)"
    kind = detail["type"]
    if kind == "extra_forbidden":
        return fault(where, expected="no such key", came=shown(detail["input"]), cure=_CURES[kind])
    if kind == "missing":
        return fault(where, expected="a value", came="nothing", cure=_CURES[kind])
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        return fault(where, expected="valid JSON", came=message, cure=f"correct the {corrected}")
    if kind == "value_error":
        return ": ".join(part for part in (source, field, message) if part)
    expected = re.sub(r"^\w+ should be ", "", message)  # "Input should be 1" -> "1"
    expected = re.sub(r"^(\w+) should ", lambda found: f"{found[1].lower()} to ", expected)
    return fault(where, expected=expected, came=shown(detail["input"]), cure="correct the value")
