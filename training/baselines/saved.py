"""What a baseline left on disk, and how a model takes it to be measured."""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from safetensors import safe_open

from prompts.bundle import Bundle
from prompts.interchange_peft import import_peft
from prompts.manifest import Usage
from training.backbone import LlavaBackbone
from training.baselines.full import WEIGHTS_FILE, load_full

__all__ = ["ADAPTER_FOLDER", "Saved", "count_values", "load_saved", "read_saved"]

ADAPTER_FOLDER = "adapter"
_CONFIG_FILE = "adapter_config.json"
_LORA = "LORA"


@dataclass(frozen=True)
class Saved:
    """A finished baseline's folder: PEFT's layout, or `weights.safetensors` of full fine-tuning."""

    folder: Path

    @property
    def values(self) -> int:
        """How many values were learned."""
        return sum(count_values(file) for file in self.folder.glob("*.safetensors"))

    @property
    def digest(self) -> str:
        """sha256 of the learned values and of what says how they are used, 16 hex digits."""
        digest = hashlib.sha256()
        for file in sorted(self.folder.iterdir()):
            if file.suffix in (".safetensors", ".json"):
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()[:16]

    @property
    def is_prompt(self) -> bool:
        """Whether it is a prompt, which leaves the model as it is."""
        return not (self.folder / WEIGHTS_FILE).exists() and self._peft_type != _LORA

    @property
    def _peft_type(self) -> str:
        return str(json.loads((self.folder / _CONFIG_FILE).read_text(encoding="utf-8"))["peft_type"])


def read_saved(run_folder: Path) -> Saved | None:
    """What a run left; None where it is not finished."""
    folder = run_folder / ADAPTER_FOLDER
    return Saved(folder) if folder.is_dir() else None


def load_saved(saved: Saved, backbone: LlavaBackbone, model: Path, usage: Usage) -> Bundle | None:
    """Makes `backbone` answer as the baseline does; the bundle to ask with where it is a prompt.

    A prompt leaves the model as it is; after all else the model is another one.

    Args:
        model: the folder that the backbone was loaded from.
        usage: how it is asked; PEFT's layout has no place for it.
    """
    if (saved.folder / WEIGHTS_FILE).exists():
        load_full(backbone, saved.folder)
        return None
    if saved.is_prompt:
        folder = saved.folder.with_name("imported")
        shutil.rmtree(folder, ignore_errors=True)
        bundle = import_peft(saved.folder, folder, name="prompt-tuning", base=model)
        return replace(bundle, manifest=bundle.manifest.model_copy(update={"usage": usage}))
    from training.baselines.adapters import load_lora

    load_lora(backbone, saved.folder)
    return None


def count_values(file: Path) -> int:
    """Values in a safetensors file, from its header."""
    with safe_open(file, "pt") as tensors:
        return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
