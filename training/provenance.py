"""Where a bundle comes from: config, seed, libraries, commit, time."""

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import JsonValue

from prompts.bundle import load_bundle
from prompts.manifest import Provenance
from training.config import M2ptConfig, TrainConfig

__all__ = ["provenance"]

_LIBRARIES = ("torch", "transformers", "passepartout-serve")


def provenance(
    config: TrainConfig, method: str, examples: Mapping[str, JsonValue] | None = None
) -> Provenance:
    """What a job writes about itself into its bundle; `examples`: see `training.reading.Reader.report`."""
    settings = config.model_dump(mode="json")
    if isinstance(config, M2ptConfig) and config.m2pt.init_bundle is not None:
        settings["m2pt"]["init_bundle"] = _ancestor(config.m2pt.init_bundle)
    return Provenance(
        method=method,
        data=settings["data"],
        examples=dict(examples) if examples else None,
        seed=config.seed,
        config=settings,
        libraries={name: found for name in _LIBRARIES if (found := _version(name))},
        commit=_commit(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _ancestor(folder: Path) -> dict[str, JsonValue]:
    """The bundle that a run went on from: its digest and how that one was made, since folders come and go."""
    bundle = load_bundle(folder)
    return {"digest": bundle.digest, "provenance": bundle.manifest.provenance.model_dump(mode="json")}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, where the code runs from one (not of a repository that only holds its venv)."""
    here = Path(__file__)
    command = ["git", "-C", str(here.parent), "rev-parse", "HEAD", f"HEAD:./{here.name}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()[0]
