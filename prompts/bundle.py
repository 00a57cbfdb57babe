"""A bundle: one task at one version, as a folder with `bundle.json`, `tensors.safetensors`, maybe a canary.

Loading is strict and finds every fault before it gives up. What is loaded never changes, and is known from
then on by its digest.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import Tensor

from prompts import contents
from prompts.bundle_files import MANIFEST_FILE, TENSORS_FILE, read_bundle_files
from prompts.canary import CANARY_FILE, Canary, canary_faults
from prompts.contents import DTYPES, Declared, shape_faults, value_faults
from prompts.errors import BundleError
from prompts.faults import fault
from prompts.manifest import Manifest

__all__ = ["Bundle", "compute_digest", "load_bundle", "replace_folder", "save_bundle"]

_DIGEST_DOMAIN = b"passepartout bundle 1\n"
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded bundle. `tensors`: name -> CPU tensor; `digest`: 64 hex digits; `path`: its folder or None.

    `outlines`: name -> what a tensor would look like that was left behind in the file (`outlined`).
    `canary`: inputs with the trainer's first-token logprobs, where it has any (`prompts.canary`).
    """

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    digest: str
    path: Path | None = None
    canary: Canary | None = None
    outlines: Mapping[str, Tensor] = field(default_factory=dict)

    def outlined(self) -> "Bundle":
        """Return the bundle with nothing but its frame in memory, for whoever keeps very many of them.

        Names, shapes, dtypes and sizes are still told; prompts, projector and lm_head read as absent.
        """
        kept = {name: tensor for name, tensor in self.tensors.items() if name == contents.FRAME}
        left = {name: tensor.to("meta") for name, tensor in self.tensors.items() if name not in kept}
        return replace(self, tensors=kept, outlines={**self.outlines, **left})

    @property
    def name(self) -> str:
        """The task's name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """The task's version."""
        return self.manifest.version

    @property
    def frame_delta(self) -> Tensor | None:
        """The frame (3, H, W) float32, zero under the picture, in units of [0, 1] pixels but unbounded."""
        return self.tensors.get(contents.FRAME)

    @property
    def text_prompts(self) -> Tensor | None:
        """The textual prompts (L, P, d)."""
        return self.tensors.get(contents.TEXT)

    @property
    def vision_prompts(self) -> Tensor | None:
        """The visual prompts (L_v, P_v, d_v)."""
        return self.tensors.get(contents.VISION)

    @property
    def lm_head_weight(self) -> Tensor | None:
        """The output layer's weight (vocabulary, d)."""
        return self.tensors.get(contents.LM_HEAD)

    def projector_state(self) -> dict[str, Tensor]:
        """Return the projector's state dict, names as inside the model's `multi_modal_projector`."""
        prefix = contents.PROJECTOR
        return {name[len(prefix) :]: t for name, t in self.tensors.items() if name.startswith(prefix)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor, in memory or not."""
        return {name: tuple(tensor.shape) for name, tensor in self._all_tensors().items()}

    @property
    def trained_values(self) -> dict[str, int]:
        """Trained numbers by part (`frame`, `text` …); of the frame only its free border counts."""
        counts: dict[str, int] = {}
        for name, tensor in sorted(self._all_tensors().items()):
            part = name.partition(".")[0]
            counts[part] = counts.get(part, 0) + tensor.numel()
        spec = self.manifest.frame
        if spec is not None:
            counts["frame"] -= 3 * spec.inner**2
        return counts

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._all_tensors().values())

    def _all_tensors(self) -> dict[str, Tensor]:
        return {**self.tensors, **self.outlines}


def load_bundle(path: Path) -> Bundle:
    """Read a bundle's folder.

    Raises:
        BundleError: with every fault: unknown or missing keys, an unsupported format, missing, extra or
            misshapen tensors, a wrong dtype, NaN or Inf, a frame outside its border or range, oversize files
            or headers, something that is no safetensors, links that leave the folder, unreadable files, a
            canary that is broken or was made for another digest or base model.
    """
    path = Path(path)
    try:
        files = read_bundle_files(path)
    except OSError as error:
        came = error.strerror or type(error).__name__
        unread = fault("folder", expected="a readable folder", came=came, cure="correct its permissions")
        raise BundleError(path, [unread]) from error
    if files.faults or files.manifest is None:
        raise BundleError(path, files.faults)
    digest = compute_digest(files.manifest, files.tensors)
    if files.canary is not None and (found := canary_faults(files.canary, files.manifest, digest)):
        raise BundleError(path, found)
    return Bundle(files.manifest, files.tensors, digest, path, files.canary)


def save_bundle(
    path: Path, manifest: Manifest, tensors: Mapping[str, Tensor], canary: Canary | None = None
) -> Bundle:
    """Write a bundle whole or not at all, and return it as read back.

    It is written beside `path` and moved there; a bundle already at `path` is replaced. Tensors may be on any
    device.

    Raises:
        BundleError: the contents would not load again, or `path` is something other than a bundle.
    """
    target = Path(path).resolve()
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    faults = [*_faults_of(manifest, held), *_target_faults(target)]
    if faults:
        raise BundleError(path, faults)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{secrets.token_hex(4)}.new"
    try:
        _write(draft, manifest, held, canary)
        bundle = load_bundle(draft)
        replace_folder(draft, target)
    except BundleError as error:
        raise BundleError(path, error.faults) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return replace(bundle, path=Path(path))


def compute_digest(manifest: Manifest, tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 (64 hex digits) of everything that decides an answer.

    That is `manifest.served_fields()` as canonical JSON and, by name, each tensor's dtype, shape and bytes.
    Name, version, description, provenance and metrics may change without changing the digest.
    """
    digest = hashlib.sha256(_DIGEST_DOMAIN)
    digest.update(_canonical(manifest.served_fields()))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(_canonical([name, _dtype_name(tensor), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _canonical(value: JsonValue) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def _dtype_name(tensor: Tensor) -> str:
    return _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))


def _faults_of(manifest: Manifest, tensors: Mapping[str, Tensor]) -> list[str]:
    declared = Declared.of(manifest)
    described = {name: (_dtype_name(tensor), tuple(tensor.shape)) for name, tensor in tensors.items()}
    faults = shape_faults(declared, described)
    for name, tensor in tensors.items():
        faults += value_faults(declared, name, tensor)
    return faults


def _target_faults(target: Path) -> list[str]:
    free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if free or (target / MANIFEST_FILE).is_file():
        return []
    cure = "choose another place; nothing was written"
    return [fault("folder", expected="a new folder or a bundle to replace", came="other files", cure=cure)]


def _write(folder: Path, manifest: Manifest, tensors: dict[str, Tensor], canary: Canary | None) -> None:
    folder.mkdir()
    try:
        text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        cure = "put a number or null there"
        raise BundleError(
            folder, [fault("metrics, provenance", expected="finite numbers", came="NaN or Inf", cure=cure)]
        ) from error
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    save_file(tensors, folder / TENSORS_FILE)
    # safetensors writes for the owner alone; the server often runs as another user.
    shutil.copymode(folder / MANIFEST_FILE, folder / TENSORS_FILE)
    if canary is not None:
        (folder / CANARY_FILE).write_text(canary.to_json(), encoding="utf-8")
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def replace_folder(draft: Path, target: Path) -> None:
    """Put `draft` at `target`; what was there is moved aside first and put back if that fails."""
    if not target.exists():
        draft.rename(target)
        return
    aside = target.parent / f".{target.name}.{secrets.token_hex(4)}.old"
    target.rename(aside)
    try:
        draft.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
