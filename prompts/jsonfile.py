"""Reads JSON that nobody vouches for: a key named twice or a number that is none is a fault."""

import json
import math

from prompts.faults import fault, shown

__all__ = ["parse_json"]


def parse_json(data: bytes, *, source: str, faults: list[str]) -> object:
    """Return what `data` says; keys repeated and numbers that are not finite are added to `faults`.

    Raises:
        ValueError, RecursionError: it is no JSON in UTF-8.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                cure = "keep one of them"
                faults.append(
                    fault(f"{source}: {shown(key)}", expected="the key once", came="twice", cure=cure)
                )
            found[key] = value
        return found

    def number(text: str) -> float | None:
        value = float(text)
        if math.isfinite(value):
            return value
        faults.append(fault(source, expected="finite numbers", came=text, cure="write a number or null"))
        return None

    return json.loads(
        data.decode("utf-8"), object_pairs_hook=unique, parse_constant=number, parse_float=number
    )
