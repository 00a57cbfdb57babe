"""`passepartout model train NAME`: makes the weights that lie in `weights/`, from nothing but pictures.

Two stages (`tower.py`, `language.py`); each keeps its working state in the run folder, and a stage that is
done is not done again. Measured on 2 CPU cores for pico-llava: about half an hour for the first, 40 minutes
for the second.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.memory import keep_freed_memory
from training.paths import run_folder
from training.pico.judge import JUDGE, JudgeRecipe, train_judge
from training.pico.judge import WEIGHTS as JUDGE_WEIGHTS
from training.pico.language import LanguageRecipe, train_language
from training.pico.members import MEMBERS, Member, find_member
from training.pico.tower import TowerRecipe, train_tower

__all__ = ["export_weights", "main", "rounds_of"]

_FROM_NOTHING = (
    LanguageRecipe(),
    LanguageRecipe(steps=240, projector_lr=6e-4, update_lr=1.2e-3, seed=2_000_002),
    LanguageRecipe(steps=700, projector_lr=8e-4, update_lr=1.6e-3, seed=3_000_002),
)
_FROM_ANOTHER = tuple(
    LanguageRecipe(steps=500, projector_lr=8e-4, update_lr=8e-4, seed=seed)
    for seed in (1_000_000, 2_000_002, 3_000_002, 4_000_002)
)


def rounds_of(member: Member) -> tuple[LanguageRecipe, ...]:
    """Stage 2 of a member, each round from where the one before ended, on fresh pictures.

    pico-llava's three rounds left it naming 82 %, 84 % and 88 % of held-out pictures (of 200, among ten
    candidates). Members that start from its updates have shorter ones: pico-llava-b 86 % after one,
    pico-idefics 76 % and 86 %, pico-blip2 80 % after two, 84 % and 88 % after three and four.
    """
    return _FROM_NOTHING if member.starts_from is None else _FROM_ANOTHER[: member.rounds]


def export_weights(eyes_file: Path, language_file: Path, out: Path) -> None:
    """Writes `tower.safetensors` and `language.safetensors` in bf16 from the two stages' states."""
    out.mkdir(parents=True, exist_ok=True)
    eyes = torch.load(eyes_file, weights_only=True)["eyes"]
    tower = {
        name.removeprefix("tower."): tensor
        for name, tensor in eyes.items()
        if name.startswith("tower.") and tensor.is_floating_point()
    }
    _save(tower, out / "tower.safetensors")
    taught = torch.load(language_file, weights_only=True)
    tensors = {f"projector.{name}": tensor for name, tensor in taught["projector"].items()}
    for name, tensor in taught["updates"].items():
        tensors["updates." + name.replace("/", ".")] = tensor
    _save(tensors, out / "language.safetensors")


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    save_file({name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}, file)
    file.chmod(0o644)  # an image is built from this folder and runs as another user
    print(f"{file.parent.name}/{file.name}: {file.stat().st_size / 1e6:.1f} MB")


def main(argv: list[str]) -> int:
    """The command `passepartout model train NAME`."""
    parser = argparse.ArgumentParser(
        prog="passepartout model train",
        description="Train a pico model's tower, projector and low-rank updates on OpenMoji pictures.",
    )
    parser.add_argument("name", choices=[*MEMBERS, JUDGE], help="a member of the family, or its judge")
    parser.add_argument("--run", type=Path, help="working folder (default: runs/NAME)")
    parser.add_argument("--out", type=Path, help="folder of the weights (default: the package's own)")
    parser.add_argument("--tower-steps", type=int, help="of the first stage (default: the model's own)")
    parser.add_argument(
        "--language-steps", type=int, help="of each round of the language stage (default: the member's own)"
    )
    options = parser.parse_args(argv)
    keep_freed_memory()
    if options.name == JUDGE:
        judge = JudgeRecipe(steps=options.tower_steps or JudgeRecipe.steps)
        train_judge(judge, (options.out or JUDGE_WEIGHTS.parent) / JUDGE_WEIGHTS.name)
        return 0
    member, run = find_member(options.name), options.run or run_folder(options.name)
    run.mkdir(parents=True, exist_ok=True)
    eyes = run / "tower.pt"
    steps = options.tower_steps or TowerRecipe.steps
    if not _done(eyes, steps):
        train_tower(member, TowerRecipe(steps=steps), eyes)
    taught = _teach(member, eyes, run, options.language_steps)
    export_weights(eyes, taught, options.out or member.tower_file.parent)
    return 0


def _teach(member: Member, eyes: Path, run: Path, steps: int | None) -> Path:
    """Stage 2 in its rounds, `steps` each if given; the last round's state file."""
    before, anew = None, False
    for number, planned in enumerate(rounds_of(member), start=1):
        state = run / f"language-{number}.pt"
        recipe = planned if steps is None else replace(planned, steps=steps)
        if anew or not _done(state, recipe.steps):
            anew = True  # and so every later round, which grew from this one
            train_language(member, recipe, eyes, state, start=before)
        before = state
    assert before is not None
    return before


def _done(file: Path, steps: int) -> bool:
    return file.is_file() and torch.load(file, weights_only=True)["step"] == steps
