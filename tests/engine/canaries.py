"""Canaries for bundles of a tiny LLaVA, made by the trainer's forward pass in float32, and put to engines."""

import asyncio
from pathlib import Path

from prompts.bundle import Bundle, save_bundle
from prompts.canary import Canary
from prompts.canary_check import CanaryReport
from server.canary import ask_canary
from server.vllm_canary import OfflineAsker
from tests.engine.serving import TASKS, Served, make_picture
from training.backbone import LlavaBackbone
from training.canary import make_canary
from training.data import Example

__all__ = ["TRAINED", "ask_engine", "ask_in_the_other_mode", "ask_permuted", "canary_of", "with_canary"]

TRAINED = [name for name, parts in TASKS.items() if "prefix" not in parts]
"""The kinds that our trainers know how to run."""

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


def ask_engine(served: Served, bundle: Bundle, canary: Canary) -> CanaryReport:
    """What the engine says to a canary under a bundle, which leaves it again."""
    handle = served.tasks.load(bundle)
    try:
        return asyncio.run(ask_canary(OfflineAsker(served.tasks), bundle, canary, handle))
    finally:
        served.tasks.unload(handle)


def ask_permuted(served: Served, name: str, part: str, backbone: LlavaBackbone, folder: Path) -> CanaryReport:
    """What it says to a task's canary when one tensor's entries are moved on by one: the rows of text, else
    the first dimension."""
    trained = served.bundles[name]
    dimension = int(part == "text.prompts")  # of vision the layers: the order of its rows is not seen
    moved = trained.tensors[part].roll(1, dimension).contiguous()
    wrong = save_bundle(folder / "wrong", trained.manifest, {**trained.tensors, part: moved})
    return ask_engine(served, wrong, canary_of(trained, backbone, served.model))


def ask_in_the_other_mode(served: Served, name: str, backbone: LlavaBackbone, folder: Path) -> CanaryReport:
    """What it says to a task's canary when the vision prompts are said to be in the mode they are not in."""
    trained = served.bundles[name]
    vision = trained.manifest.vision
    assert vision is not None
    other = {"released": "paper", "paper": "released"}[vision.mode]
    manifest = trained.manifest.model_copy(update={"vision": vision.model_copy(update={"mode": other})})
    wrong = save_bundle(folder / "wrong", manifest, trained.tensors)
    return ask_engine(served, wrong, canary_of(trained, backbone, served.model))
