"""What goes to an engine's process and comes back: plain data, the same for every kind of engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image

__all__ = ["Batch", "EngineSpec", "Report", "Request"]


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """How to start an engine.

    `runner`: `module:function` that serves it in a process of its own. `bundles` are loaded as tasks 0, 1, …;
    `adapters` (folders in PEFT's format) are used as tasks 0, 1, … by vLLM's own multi-LoRA.
    `options` go to vLLM's `LLM`.
    """

    runner: str
    model: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    bundles: tuple[Path, ...] = ()
    adapters: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request: text or token ids (a picture is one `<image>` of either), and the number of its task."""

    prompt: str | tuple[int, ...]
    pictures: tuple[Image, ...] = ()
    task: int | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Requests that are asked at once, greedily.

    `tokens`: how many each answer has, exactly (the end token is passed over), unless the request has choices
    or `may_end`.
    """

    requests: tuple[Request, ...]
    tokens: int
    may_end: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """How a batch went; lists are in the order of its requests.

    `texts`: the answers without special tokens and outer spaces.
    `seconds`: from the first request's preprocessing to the last one's last token. `prompt_tokens` counts
    prompt rows and picture tokens too; `cached_tokens` of them came out of the prefix cache.
    `queued_seconds`: of `seconds`, until the last request was preprocessed and queued.
    `counters`: vLLM's own prefix-cache counters, since the engine's start.
    """

    seconds: float
    texts: list[str]
    answer_tokens: list[int]
    prompt_tokens: list[int] = field(default_factory=list)
    cached_tokens: list[int] = field(default_factory=list)
    queued_seconds: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Answer tokens of all requests."""
        return sum(self.answer_tokens) / self.seconds

    @property
    def requests_per_second(self) -> float:
        """Answered requests."""
        return len(self.texts) / self.seconds
