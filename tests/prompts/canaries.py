"""Small canaries, whole and spoilt, for the tests of format and comparison."""

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from prompts.bundle import Bundle
from prompts.canary import Canary, CanaryInput, ImageRows
from prompts.manifest import BaseModelRef
from tests.prompts.sample import BASE

__all__ = ["IMAGE_TOKEN", "canary_for", "edit_canary", "png", "put_canary"]

IMAGE_TOKEN = 7
TOKENS = (11, 12, 13, 14)
LOGPROBS = tuple(math.log(share) for share in (0.5, 0.25, 0.125, 0.0625))


def png(size: tuple[int, int] = (6, 5), kind: str = "PNG") -> str:
    """A picture's file in base64."""
    data = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(data, kind)
    return base64.b64encode(data.getvalue()).decode()


def canary_for(bundle: Bundle, base: BaseModelRef = BASE) -> Canary:
    """One input with a picture, one of text alone (left out where the bundle acts on pictures alone)."""
    pictured = CanaryInput(
        question="what is it?", picture=png(), prompt=(1, IMAGE_TOKEN, 2, 3), tokens=TOKENS, logprobs=LOGPROBS
    )
    spoken = CanaryInput(question="hello", picture=None, prompt=(1, 4, 5), tokens=TOKENS, logprobs=LOGPROBS)
    return Canary(
        digest=bundle.digest,
        base_model=base,
        dtype="float32",
        image=ImageRows(token=IMAGE_TOKEN, rows=3),
        inputs=(pictured, spoken) if bundle.manifest.text else (pictured,),
    )


def put_canary(folder: Path, canary: Canary) -> None:
    """Write the file behind the library's back."""
    (folder / "canary.json").write_text(canary.to_json())


def edit_canary(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change it behind the library's back."""
    file = folder / "canary.json"
    raw = json.loads(file.read_text())
    edit(raw)
    file.write_text(json.dumps(raw))
