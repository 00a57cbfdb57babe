"""`passepartout task canary BUNDLE --model M`: gives a bundle a canary, or a new one.

The inputs are the pictures given with one question, or else some of the data that the bundle says it was
measured on or trained with. The model is run by transformers, in float32 unless told otherwise: what an
engine computes in then has the whole tolerance to itself.
"""

import argparse
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from prompts.bundle import Bundle, load_bundle
from prompts.canary import CANARY_FILE, MAX_INPUTS, Canary
from prompts.errors import BaseModelMismatchError, ConfigError
from prompts.faults import fault
from prompts.fingerprint import base_model_ref
from prompts.picture import decode_picture
from training.backbone import LlavaBackbone
from training.canary import canary_examples, make_canary
from training.data import DataConfig, Example, open_data

__all__ = ["add_canary", "main"]

PROG = "passepartout task canary"


def main(argv: list[str]) -> int:
    """Write the canary and say what is in it.

    Raises:
        BundleError: the bundle is faulty.
        ConfigError: no inputs, or the model does not fit.
        BaseModelMismatchError: the bundle was trained in another model.
    """
    given = _parser().parse_args(argv)
    bundle = load_bundle(given.bundle)
    _require_base(bundle, given.model)
    examples = _examples(given, bundle)
    backbone = LlavaBackbone.load(given.model, dtype=given.dtype)
    canary = make_canary(backbone, bundle, examples, given.model)
    file = add_canary(given.bundle, canary)
    size = f"{len(canary.inputs)} inputs, {canary.dtype}, {file.stat().st_size:,} bytes"
    print(f"{file}: {size}, for digest {bundle.digest}")
    return 0


def add_canary(folder: Path, canary: Canary) -> Path:
    """Put a canary into a bundle's folder, whole or not at all, and return its file.

    Raises:
        ConfigError: the folder cannot be written.
    """
    file = folder / CANARY_FILE
    draft = folder / f".{CANARY_FILE}.new"
    try:
        with draft.open("w", encoding="utf-8") as out:
            out.write(canary.to_json())
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except OSError as error:
        came = error.strerror or type(error).__name__
        problem = fault("BUNDLE", expected="a folder to write in", came=came, cure="correct its permissions")
        raise ConfigError(PROG, [problem]) from error
    return file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Give a bundle a canary: a few inputs with the first-token logprobs that transformers "
        "computes under it. A server checks itself with them when it loads the bundle.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument("--model", type=Path, required=True, metavar="M", help="folder of its base model")
    parser.add_argument(
        "--picture",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="an input's picture, may be repeated (default: examples of the bundle's own data)",
    )
    parser.add_argument("--question", metavar="TEXT", help="asked about each picture; alone: a text input")
    parser.add_argument(
        "--inputs", type=int, default=3, metavar="N", help="of the bundle's own data (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="to compute in (default: %(default)s)",
    )
    return parser


def _require_base(bundle: Bundle, model: Path) -> None:
    wanted, base = bundle.manifest.base_model, base_model_ref(model)
    if wanted is not None and wanted.fingerprint != base.fingerprint:
        field = "base_model.fingerprint"
        raise BaseModelMismatchError(
            bundle.name, field=field, expected=base.fingerprint, came=wanted.fingerprint
        )


def _examples(given: argparse.Namespace, bundle: Bundle) -> list[Example]:
    """What the canary will ask.

    Raises:
        ConfigError: a picture without a question, or none given and none to be found.
        PictureError: a file is no picture.
    """
    faults = []
    if given.picture and given.question is None:
        cure = "give --question TEXT"
        faults.append(fault("--question", expected="what is asked", came="none", cure=cure))
    count = len(given.picture) or given.inputs
    if not 1 <= count <= MAX_INPUTS:
        cure = "give fewer" if count > MAX_INPUTS else "give one"
        faults.append(fault("inputs", expected=f"1 to {MAX_INPUTS}", came=str(count), cure=cure))
    if faults:
        raise ConfigError(PROG, faults)
    if given.picture:
        return [Example(decode_picture(file), given.question, "") for file in given.picture]
    if given.question is not None:
        return [Example(None, given.question, "")]
    return _own_examples(bundle, given.inputs)


def _own_examples(bundle: Bundle, count: int) -> list[Example]:
    config = bundle.manifest.provenance.config
    said = config.get("validation") or config.get("data") or bundle.manifest.provenance.data
    cure = "give --picture FILE and --question TEXT"
    expected = "data that the bundle names, on this machine"
    try:
        entry = TypeAdapter(DataConfig).validate_python(said)
        source = open_data(entry, max_broken_share=1.0)
    except (ValidationError, ConfigError) as error:
        came = "none" if isinstance(error, ValidationError) else "; ".join(error.faults)
        problem = fault("inputs", expected=expected, came=came, cure=cure)
        raise ConfigError(PROG, [problem]) from error
    return canary_examples(source, count, with_picture=not bundle.manifest.prompt_length)
