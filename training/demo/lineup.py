"""The tasks of the demo: which are trained on the spot, which come ready, and what each is asked."""

from dataclasses import dataclass
from pathlib import Path

from prompts.errors import ConfigError
from prompts.faults import fault

__all__ = ["LINEUP", "Entry", "examples_folder"]


@dataclass(frozen=True)
class Entry:
    """A served task. `pico_task` draws its held-out pictures; `verb` trains it here, None: it is shipped."""

    task: str
    pico_task: str
    method: str
    verb: str | None = None


LINEUP = (
    Entry("kind-frame", "kind", "TVP", verb="tvp"),
    Entry("category-quick", "category", "M²PT", verb="m2pt"),
    Entry("lines", "lines", "M²PT"),
    Entry("count", "count", "M²PT"),
    Entry("category", "category", "M²PT"),
)


def examples_folder() -> Path:
    """The checkout's `examples/`: configs of what the demo trains, and the shipped bundles.

    Raises:
        ConfigError: the package was installed without them.
    """
    folder = Path(__file__).resolve().parents[2] / "examples"
    if not (folder / "demo").is_dir():
        cure = "run the demo from a checkout of the repository (`make demo`)"
        raise ConfigError(
            "demo", [fault("examples", expected="the folder examples/demo", came="none", cure=cure)]
        )
    return folder
