"""LLaVA's conversation JSON: question and answer pairs, with or without a picture."""

import json
from pathlib import Path
from typing import Any

from prompts.errors import ConfigError
from prompts.faults import fault, shown
from training.data.config import LlavaJsonData
from training.data.files import FAULTS_GATHERED, place_items, read_picture
from training.data.items import Item, ItemSource

__all__ = ["open_llava_json", "record_pairs"]

IMAGE_TOKEN = "<image>"


def open_llava_json(entry: LlavaJsonData) -> ItemSource[Path]:
    """Question and answer pairs of a conversation file, in its order; answers only are learned.

    A broken record is left out, and so is a pair whose picture is missing or outside the folder.

    Raises:
        ConfigError: the file is missing or empty, or nothing in it is whole.
    """
    items: list[Item[str]] = []
    faults: list[str] = []
    for number, record in enumerate(_read_records(entry.file)):
        if entry.limit is not None and len(items) >= entry.limit:
            break
        try:
            pairs = record_pairs(record, entry.turns)
        except ValueError as error:
            faults.append(f"record {number}: {error}")
            continue
        items += [Item(image, question, answer) for image, question, answer in pairs]
    expected = "the picture of each record"
    placed, wrong = place_items(items[: entry.limit], entry.images, field="images", expected=expected)
    faults += wrong
    if not placed and not faults:
        cure = "name another file"
        faults.append(fault("file", expected="a question and an answer", came="an empty list", cure=cure))
    if not placed:
        raise ConfigError(entry.file, list(dict.fromkeys(faults))[:FAULTS_GATHERED])
    return ItemSource(placed, read_picture, faults)


def _read_records(file: Path) -> list[Any]:
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        came, cure = f"{file} ({error.strerror})", "correct the path"
        raise ConfigError("data", [fault("file", expected="a JSON file", came=came, cure=cure)]) from error
    except ValueError as error:
        raise ConfigError(
            "data", [fault("file", expected="JSON", came=f"{file}: {error}", cure="correct it")]
        ) from error
    if not isinstance(records, list):
        came, cure = type(records).__name__, "use LLaVA's conversation format"
        raise ConfigError("data", [fault("file", expected="a list of records", came=came, cure=cure)])
    return records


def record_pairs(record: Any, turns: str) -> list[tuple[str | None, str, str]]:
    """(image, question, answer) of one record, the `<image>` marker taken out of the question.

    Raises:
        ValueError: the record is not in LLaVA's format; says what is wrong.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, came {type(record).__name__}")
    image, talk = record.get("image"), record.get("conversations")
    if image is not None and not isinstance(image, str):
        raise ValueError(f"image: expected one file name, came {shown(image)}")
    if not isinstance(talk, list) or len(talk) < 2:
        raise ValueError(f"conversations: expected a question and an answer at least, came {shown(talk)}")
    asked = [_said(message, "human") for message in talk[0::2]]
    answered = [_said(message, "gpt") for message in talk[1::2]]
    pairs = [
        (image, question.replace(IMAGE_TOKEN, "").strip(), answer)
        for question, answer in zip(asked, answered, strict=False)  # a last question may stand unanswered
    ]
    taken = pairs[:1] if turns == "first" else pairs
    if any(IMAGE_TOKEN in answer for _, _, answer in taken):
        raise ValueError(f"conversations: expected answers in words, came {IMAGE_TOKEN} in one")
    return taken


def _said(message: Any, speaker: str) -> str:
    given = message if isinstance(message, dict) else {}
    if given.get("from") != speaker or not isinstance(given.get("value"), str):
        expected = f'{{"from": "{speaker}", "value": text}} in its turn'
        raise ValueError(f"conversations: expected {expected}, came {shown(message)}")
    return str(given["value"]).strip()
