"""A job's digest: equal for two jobs that must come to the same result, so that a finished one is not redone.

It covers settings, the models' fingerprints and the data's content; of a large set a few examples spread
over it, and their number.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from prompts.fingerprint import base_model_ref
from training.config import TvpConfig
from training.data import DataConfig, make_source

__all__ = ["data_digest", "digest_of", "frame_digest", "model_digest"]

_FORMAT = 1
"""Grows when trainer or measure come to other results from the same settings."""
_EXAMPLES_READ = 8
_FREE = {"name", "version", "description", "out", "bundle", "validation", "canary", "checkpoint_every"}
_PATHS = {"model", "data", "log_every"}


def digest_of(content: Any) -> str:
    """sha256 of a JSON value, 16 hex digits."""
    text = json.dumps([_FORMAT, content], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def model_digest(folder: Path) -> str:
    """The fingerprint of a checkpoint, see `prompts.fingerprint`.

    Raises:
        BaseModelError: it is none.
    """
    return base_model_ref(folder).fingerprint


def data_digest(entry: DataConfig) -> str:
    """Of the number of examples, and of a few of them as they come: pictures, questions, answers."""
    source = make_source(entry)
    digest = hashlib.sha256(str(len(source)).encode())
    for place in sorted({round(i * (len(source) - 1) / (_EXAMPLES_READ - 1)) for i in range(_EXAMPLES_READ)}):
        example = source[place]
        if example.picture is not None:
            digest.update(example.picture.convert("RGB").tobytes())
        digest.update(repr((example.question, example.answer, example.choices)).encode())
    return digest.hexdigest()[:16]


def frame_digest(config: TvpConfig) -> str:
    """Of a training job."""
    settings = config.model_dump(mode="json", exclude=_FREE | _PATHS)
    options = settings["tvp"]
    del options["also"], options["clip"]
    models = [model_digest(folder) for folder in (config.model, *config.tvp.also)]
    clip = model_digest(config.tvp.clip) if config.tvp.clip and config.tvp.lambda_tse else None
    return digest_of([settings, models, clip, data_digest(config.data)])
