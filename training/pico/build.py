"""`passepartout model build NAME`: assembles a pico model offline, an ordinary checkpoint.

SmolLM2-135M-Instruct comes from its package; the tower, the projector and the low-rank updates come from
`weights/` and are merged here. Beside pico-llava lies `clip/`, the tiny CLIP that TSE uses. No custom code:
transformers and vLLM load them as they are.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

from safetensors.torch import load_file

from prompts.errors import BaseModelError
from prompts.faults import fault
from training.paths import model_folder
from training.pico.judge import JUDGE, build_judge
from training.pico.judge import WEIGHTS as JUDGE_WEIGHTS
from training.pico.members import MEMBERS, find_member

__all__ = ["build_model", "is_current", "main"]

_SOURCE_FILE = "built-from.sha256"


def build_model(name: str, out: Path) -> Path:
    """Writes the checkpoint of a member, or the judge, to `out` in place of what is there; about 20 s.

    Raises:
        BaseModelError: the repository's weights are missing.
        ConfigError: no such member.
    """
    for file in _weights(name):
        if not file.is_file():
            cure = f"run `passepartout model train {name}`"
            came = f"no {file.parent.name}/{file.name}"
            raise BaseModelError(fault("weights", expected="them in the package", came=came, cure=cure))
    draft = out.with_name(out.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _write(name, draft)
    (draft / _SOURCE_FILE).write_text(_source_digest(name), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    draft.rename(out)
    return out


def is_current(name: str, out: Path) -> bool:
    """Whether `out` holds a build of the weights and the code that are here now."""
    file = out / _SOURCE_FILE
    return file.is_file() and file.read_text(encoding="utf-8") == _source_digest(name)


def _weights(name: str) -> list[Path]:
    if name == JUDGE:
        return [JUDGE_WEIGHTS]
    member = find_member(name)
    return [member.tower_file, member.language_file]


def _write(name: str, folder: Path) -> None:
    if name == JUDGE:
        build_judge(folder)
        return
    tower, taught = (load_file(file) for file in _weights(name))
    find_member(name).write(folder, tower, taught)


def _source_digest(name: str) -> str:
    """sha256 over what a build is made from: the weights, and the modules that put them together."""
    here = Path(__file__).parent
    shared = [here / module for module in ("language_model.py", "clip.py", "judge.py")]
    sources = [*_weights(name), Path(__file__), *shared, *sorted(here.glob("members/*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources if file.is_file())).hexdigest()


def main(argv: list[str]) -> int:
    """The command `passepartout model build NAME`."""
    parser = argparse.ArgumentParser(
        prog="passepartout model build",
        description="Assemble a model of the embedded family, offline (about 20 s, 290 MB).",
    )
    parser.add_argument("name", choices=[*MEMBERS, JUDGE], help="a member of the family, or its judge")
    parser.add_argument("--out", type=Path, help="folder to write (default: models/NAME)")
    parser.add_argument("--keep", action="store_true", help="leave a build of these weights as it is")
    options = parser.parse_args(argv)
    out = options.out or model_folder(options.name)
    if not (options.keep and is_current(options.name, out)):
        build_model(options.name, out)
    print(f"{options.name} is at {out}")
    return 0
