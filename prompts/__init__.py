"""The saved prompt: bundle, store, the TVP frame, deep prompts.

Needs torch, safetensors, pydantic, Pillow and numpy; imports neither vLLM, nor transformers, nor FastAPI.
"""

from prompts.bundle import Bundle, compute_digest, load_bundle, save_bundle
from prompts.canary import Canary, CanaryInput
from prompts.canary_check import CanaryReport, FirstToken, compare
from prompts.deep import M2PTSizes, count_parameters, image_tokens, xavier_prompts
from prompts.errors import BundleError, InputError, InternalError, PassepartoutError
from prompts.fingerprint import base_model_ref, fingerprint_model
from prompts.frame import (
    apply_frame,
    fit_picture,
    frame_mask,
    frame_picture,
    framed_image,
    preview,
    to_display,
)
from prompts.manifest import (
    BaseModelRef,
    FrameSpec,
    Manifest,
    PrefixSpec,
    Provenance,
    TextSpec,
    Usage,
    VisionSpec,
)
from prompts.picture import decode_picture, to_rgb
from prompts.store import StoreReader, StoreScan, scan_store

__all__ = [
    "BaseModelRef",
    "Bundle",
    "BundleError",
    "Canary",
    "CanaryInput",
    "CanaryReport",
    "FirstToken",
    "FrameSpec",
    "InputError",
    "InternalError",
    "M2PTSizes",
    "Manifest",
    "PassepartoutError",
    "PrefixSpec",
    "Provenance",
    "StoreReader",
    "StoreScan",
    "TextSpec",
    "Usage",
    "VisionSpec",
    "apply_frame",
    "base_model_ref",
    "compare",
    "compute_digest",
    "count_parameters",
    "decode_picture",
    "fingerprint_model",
    "fit_picture",
    "frame_mask",
    "frame_picture",
    "framed_image",
    "image_tokens",
    "load_bundle",
    "preview",
    "save_bundle",
    "scan_store",
    "to_display",
    "to_rgb",
    "xavier_prompts",
]
