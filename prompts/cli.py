"""`passepartout task`: look at a saved task, or exchange one with other tools.

passepartout task show BUNDLE [--json]
passepartout task verify BUNDLE [--json]
passepartout task preview BUNDLE [--picture FILE] [--out FILE]
passepartout task frame BUNDLE PICTURE [--out FILE]
passepartout task put BUNDLE STORE [--name NAME] [--beside]
passepartout task pull SOURCE DIR [--lock FILE | --locked FILE]
passepartout task push BUNDLE TARGET [--beside]
passepartout task verify BUNDLE --model M [--json] [any option of vLLM's engine]       (server/verify.py)
passepartout task canary BUNDLE --model M [--picture FILE --question TEXT]  (training/canary_command.py)
passepartout task import tvp|m2pt|peft …, passepartout task export peft …: see `prompts.cli_interchange`
"""

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel

from prompts.bundle import Bundle, load_bundle
from prompts.cli_interchange import add_export, add_import, checked_name
from prompts.cli_remote import add_pull, add_push
from prompts.errors import BundleError, InputError
from prompts.faults import fault
from prompts.frame import framed_image, preview
from prompts.picture import decode_picture
from prompts.placing import put_bundle

__all__ = ["main"]

_REFUSED = 2
_FRAME = "put a frame of value_range unit around a picture: a PNG that any API accepts"
_PUT = "copy a bundle into a store, whole or not at all; it takes the place of the task of that name"
_BESIDE = "as a version that waits until it is activated (PUT /v1/tasks/NAME)"
_WITH_A_MODEL = """\
with a model:
  verify BUNDLE --model M   start vLLM on M and ask it the bundle's canary
  canary BUNDLE --model M   give a bundle a canary, or a new one: inputs and what they are answered
"""


def main(argv: list[str]) -> int:
    """Run one `task` command and return its exit status.

    Raises:
        InputError: the bundle or the picture is refused (the command's caller prints it).
    """
    given = _parser().parse_args(argv)
    status: int = given.run(given)
    return status


class _Verb(argparse.ArgumentParser):
    """Whose own usage is printed beside words too many, where argparse prints that of the whole."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but with nothing left over."""
        given, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return given, left


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="passepartout task",
        description="Look at a saved task, put it into a store, import or export one.",
        epilog=_WITH_A_MODEL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    metavar = "show|verify|preview|frame|put|import|export|pull|push|canary"
    kind: type[argparse.ArgumentParser] = _Verb
    verbs = parser.add_subparsers(title="commands", required=True, metavar=metavar, parser_class=kind)
    for name, run, meaning in (
        ("show", _show, "print what a bundle holds"),
        ("verify", _verify, "check a bundle: ok and its digest, or every fault"),
        ("preview", _preview, "draw the frame as a PNG, for people (clipped to 8 bits)"),
    ):
        verb = verbs.add_parser(name, help=meaning, description=meaning)
        verb.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
        verb.set_defaults(run=run)
        if name == "preview":
            verb.add_argument("--picture", type=Path, metavar="FILE", help="show it before and after")
            verb.add_argument("--out", type=Path, metavar="FILE", help="default: TASK-frame.png here")
        else:
            verb.add_argument("--json", action="store_true", help="print JSON")
    frame = verbs.add_parser("frame", help=_FRAME, description=f"{_FRAME}.")
    frame.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    frame.add_argument("picture", type=Path, metavar="PICTURE", help="the picture's file")
    frame.add_argument("--out", type=Path, metavar="FILE", help="default: PICTURE-TASK.png here")
    frame.set_defaults(run=_frame)
    put = verbs.add_parser("put", help=_PUT, description=f"{_PUT}.")
    put.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    put.add_argument("store", type=Path, metavar="STORE", help="the folder of bundles that a server serves")
    put.add_argument("--name", help="the task's name there (default: the bundle's own)")
    put.add_argument("--beside", action="store_true", help=_BESIDE)
    put.set_defaults(run=_put)
    add_import(verbs, _say)
    add_export(verbs)
    add_pull(verbs)
    add_push(verbs)
    return parser


def _show(given: argparse.Namespace) -> int:
    bundle = load_bundle(given.bundle)
    print(json.dumps(_as_json(bundle), indent=2, ensure_ascii=False) if given.json else _as_text(bundle))
    return 0


def _verify(given: argparse.Namespace) -> int:
    try:
        bundle = load_bundle(given.bundle)
    except BundleError as error:
        if not given.json:
            raise
        print(json.dumps({"ok": False, "faults": error.faults}, ensure_ascii=False))
        return _REFUSED
    facts = {"ok": True, "name": bundle.name, "version": bundle.version, "digest": bundle.digest}
    print(json.dumps(facts) if given.json else f"ok {bundle.digest}")
    return 0


def _preview(given: argparse.Namespace) -> int:
    bundle = load_bundle(given.bundle)
    picture = None if given.picture is None else decode_picture(given.picture)
    return _write_png(preview(bundle, picture), given.out or Path(f"{bundle.name}-frame.png"))


def _frame(given: argparse.Namespace) -> int:
    bundle = load_bundle(given.bundle)
    framed = framed_image(bundle, decode_picture(given.picture))
    return _write_png(framed, given.out or Path(f"{given.picture.stem}-{bundle.name}.png"))


def _write_png(drawn: Image.Image, out: Path) -> int:
    try:
        drawn.save(out, format="PNG")
    except OSError as error:
        came = error.strerror or type(error).__name__
        raise InputError(
            fault("--out", expected="a file to write", came=came, cure="give another")
        ) from error
    print(out)
    return 0


def _put(given: argparse.Namespace) -> int:
    bundle = load_bundle(given.bundle)
    placed = put_bundle(given.store, bundle, checked_name(given.name or bundle.name), beside=given.beside)
    print(f"{placed.path} {placed.digest}")
    return 0


def _say(bundle: Bundle) -> int:
    print(_as_text(bundle))
    return 0


def _as_json(bundle: Bundle) -> dict[str, object]:
    return {
        **bundle.manifest.model_dump(mode="json"),
        "digest": bundle.digest,
        "size_bytes": bundle.size_bytes,
        "trained_values": bundle.trained_values,
        "canary": _canary(bundle),
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": _dtype(tensor.dtype), "size_bytes": tensor.nbytes}
            for name, tensor in sorted(bundle.tensors.items())
        },
    }


def _as_text(bundle: Bundle) -> str:
    manifest = bundle.manifest
    values = bundle.trained_values
    lines = [f"{bundle.name} {bundle.version}", *_optional("", manifest.description)]
    lines += _row("digest", bundle.digest)
    base = manifest.base_model
    lines += _row("base model", "any" if base is None else f"{base.id or '?'} ({base.architecture})")
    lines += [] if base is None else _row("", base.fingerprint)
    lines += _section("frame", manifest.frame) + _section("text", manifest.text)
    lines += _section("prefix", manifest.prefix) + _section("vision", manifest.vision)
    lines += _row("trained", f"{sum(values.values()):,} values: {_pairs(values)}")
    lines += _row("size", f"{bundle.size_bytes:,} bytes")
    for name, tensor in sorted(bundle.tensors.items()):
        shape = " x ".join(str(size) for size in tensor.shape)
        lines += _row("", f"{name}  {shape}  {_dtype(tensor.dtype)}  {tensor.nbytes:,} bytes")
    lines += _section("canary", _canary(bundle))
    for key, value in manifest.usage.model_dump().items():
        lines += _optional(key, ", ".join(value) if key == "choices" and value else value)
    lines += _section("metrics", manifest.metrics)
    for key, value in manifest.provenance.model_dump(mode="json").items():
        lines += _optional(key, value)
    return "\n".join(lines)


def _canary(bundle: Bundle) -> dict[str, object] | None:
    canary = bundle.canary
    if canary is None:
        return None
    base = canary.base_model
    return {"inputs": len(canary.inputs), "dtype": canary.dtype, "made in": base.id or base.fingerprint}


def _row(label: str, text: str) -> list[str]:
    return [f"  {label:<12}{text}"]


def _optional(label: str, value: object) -> list[str]:
    if value in (None, "", {}):
        return []
    return _row(label, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _section(label: str, part: BaseModel | dict[str, Any] | None) -> list[str]:
    if not part:
        return []
    return _row(label, _pairs(part.model_dump() if isinstance(part, BaseModel) else part))


def _pairs(fields: dict[str, object] | dict[str, int]) -> str:
    return ", ".join(f"{key} {f'{one:,}' if type(one) is int else one}" for key, one in fields.items())


def _dtype(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
