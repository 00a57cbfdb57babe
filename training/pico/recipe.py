"""`passepartout model train pico-llava`: makes the weights that lie in `weights/`, from nothing but pictures.

Two stages (`tower.py`, `language.py`); each keeps its working state in the run folder, and a stage that is
done is not done again. Measured on 2 CPU cores: about half an hour for the first, 40 minutes for the second.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.memory import keep_freed_memory
from training.paths import run_folder
from training.pico.anatomy import WEIGHTS_FOLDER
from training.pico.language import LanguageRecipe, train_language
from training.pico.tower import TowerRecipe, train_tower

__all__ = ["ROUNDS", "export_weights", "main"]

ROUNDS = (
    LanguageRecipe(),
    LanguageRecipe(steps=240, projector_lr=6e-4, update_lr=1.2e-3, seed=2_000_003),
    LanguageRecipe(steps=700, projector_lr=8e-4, update_lr=1.6e-3, seed=3_000_003),
)
"""Stage 2, each round from where the one before ended, on fresh pictures with the optimiser afresh.

Held-out pictures named after each round: 82 %, 84 %, 88 % (of 200, among ten candidates).
"""


def export_weights(tower_file: Path, language_file: Path, out: Path) -> None:
    """Writes `clip.safetensors` and `llava.safetensors` in bf16 from the two stages' states."""
    out.mkdir(parents=True, exist_ok=True)
    clip = torch.load(tower_file, weights_only=True)["clip"]
    _save(
        {name: tensor for name, tensor in clip.items() if tensor.is_floating_point()},
        out / "clip.safetensors",
    )
    taught = torch.load(language_file, weights_only=True)
    tensors = {f"projector.{name}": tensor for name, tensor in taught["projector"].items()}
    for name, tensor in taught["updates"].items():
        tensors["updates." + name.replace("/", ".")] = tensor
    _save(tensors, out / "llava.safetensors")


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    save_file({name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}, file)
    file.chmod(0o644)  # an image is built from this folder and runs as another user
    print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")


def main(argv: list[str]) -> int:
    """The command `passepartout model train pico-llava`."""
    parser = argparse.ArgumentParser(
        prog="passepartout model train pico-llava",
        description="Train the embedded model's tower, projector and low-rank updates on OpenMoji pictures.",
    )
    parser.add_argument(
        "--run",
        type=Path,
        default=run_folder("pico-llava"),
        help="working folder (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS_FOLDER, help="folder of the weights (default: the package's own)"
    )
    parser.add_argument("--tower-steps", type=int, default=TowerRecipe.steps, help="default: %(default)s")
    planned = " + ".join(str(recipe.steps) for recipe in ROUNDS)
    parser.add_argument(
        "--language-steps", type=int, help=f"of each round of the language stage (default: {planned})"
    )
    options = parser.parse_args(argv)
    keep_freed_memory()
    options.run.mkdir(parents=True, exist_ok=True)
    tower = options.run / "tower.pt"
    if not _done(tower, options.tower_steps):
        train_tower(TowerRecipe(steps=options.tower_steps), tower)
    taught = _teach(tower, options.run, options.language_steps)
    export_weights(tower, taught, options.out)
    return 0


def _teach(tower: Path, run: Path, steps: int | None) -> Path:
    """Stage 2 in its rounds, `steps` each if given; the last round's state file."""
    before, anew = None, False
    for number, planned in enumerate(ROUNDS, start=1):
        state = run / f"language-{number}.pt"
        recipe = planned if steps is None else replace(planned, steps=steps)
        if anew or not _done(state, recipe.steps):
            anew = True  # and so every later round, which grew from this one
            train_language(recipe, tower, state, start=before)
        before = state
    assert before is not None
    return before


def _done(file: Path, steps: int) -> bool:
    return file.is_file() and torch.load(file, weights_only=True)["step"] == steps
