"""Canaries for bundles of a tiny LLaVA, made by the trainer's own forward pass in float32."""

from pathlib import Path

from prompts.bundle import Bundle, save_bundle
from prompts.canary import Canary
from tests.engine.serving import make_picture
from training.backbone import LlavaBackbone
from training.canary import make_canary
from training.data import Example

__all__ = ["canary_of", "with_canary"]

QUESTION = "name the bird in the picture."


def canary_of(bundle: Bundle, backbone: LlavaBackbone, model: Path) -> Canary:
    """Two pictures, and a text where the bundle acts on texts."""
    examples = [Example(make_picture(seed), QUESTION, "") for seed in (3, 4)]
    if bundle.manifest.text is not None:
        examples.append(Example(None, "hello there, how are you today?", ""))
    return make_canary(backbone, bundle, examples, model)


def with_canary(bundle: Bundle, canary: Canary, folder: Path) -> Bundle:
    """The bundle saved anew with a canary that says it was made for it, whatever it was made for."""
    passed_off = canary.model_copy(update={"digest": bundle.digest})
    return save_bundle(folder, bundle.manifest, bundle.tensors, passed_off)
