"""Frozen models, asked as the server asks them: any of transformers for pixels, LLaVA's for deep prompts."""

import json
from pathlib import Path

from prompts.errors import ConfigError
from training.backbone.deep import NO_PROMPTS, DeepPrompts
from training.backbone.device import DTYPES, choose_device, choose_dtype
from training.backbone.frozen import Backbone, Features
from training.backbone.llava import LlavaBackbone
from training.backbone.pictures import PictureInputs
from training.preflight import checkpoint_faults

__all__ = [
    "DTYPES",
    "NO_PROMPTS",
    "Backbone",
    "DeepPrompts",
    "Features",
    "LlavaBackbone",
    "PictureInputs",
    "choose_device",
    "choose_dtype",
    "load_backbone",
]


def load_backbone(folder: Path, *, dtype: str = "auto", device: str = "auto") -> Backbone:
    """The frozen model of a checkpoint folder: `LlavaBackbone` for LLaVA's layout, else the general one.

    Raises:
        ConfigError: the folder holds no vision-language model of transformers with its processor.
    """
    faults = checkpoint_faults("model", folder)
    if faults:
        raise ConfigError("model", faults)
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = LlavaBackbone if found["model_type"] == "llava" else Backbone
    return kind.load(folder, dtype=dtype, device=device)
