"""What may come from a store elsewhere: folders with their digests, in a file that `task pull` writes."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from prompts.errors import ConfigError
from prompts.faults import fault, validation_faults
from prompts.manifest import Part

__all__ = ["Lock"]

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Lock(Part):
    """What may come from a source. `bundles`: folder name -> digest."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    bundles: dict[str, Digest] = Field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> "Lock":
        """Read a lock file.

        Raises:
            ConfigError: it cannot be read, or is none; each fault is named.
        """
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            came, cure = error.strerror or type(error).__name__, "`task pull --lock FILE` writes one"
            found = fault("lock", expected="a readable file", came=came, cure=cure)
            raise ConfigError(file.name, [found]) from error
        except ValidationError as error:
            raise ConfigError(file.name, validation_faults(error)) from error

    def write(self, file: Path) -> None:
        """Write it as `read` reads it."""
        file.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
