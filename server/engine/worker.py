"""What every worker answers to `collective_rpc`; for vLLM's `worker_extension_cls`.

vLLM 0.32 runs the calls between steps. An answer is `{"ok": …}`, or `{"code", "message"}` of our error: of
an exception only its text would reach the front end. `residency.py` is the other side.
"""

from collections.abc import Callable
from typing import Any

from prompts.errors import EngineError, PassepartoutError
from server.engine.families.base import PromptedModel

__all__ = ["PromptWorkerExtension"]


class PromptWorkerExtension:
    """Mixed into vLLM's worker class; its names must not meet the worker's."""

    model_runner: Any

    def passepartout_facts(self) -> dict[str, Any]:
        """`EngineFacts` of the model."""
        return _answer(lambda: _get_model(self).prompt_facts.to_plain())

    def passepartout_stage(self, path: str, digest: str) -> dict[str, Any]:
        """Says where the bundle at `path` is: "device", "host", "store" (just read), or "reading"."""
        return _answer(lambda: _get_model(self).prompt_tiers.stage(path, digest))

    def passepartout_load(self, digest: str, token: str) -> dict[str, Any]:
        """Brings a staged task to the device; says its slot. `token`: this load's own name."""

        def load() -> int:
            model = _get_model(self)
            model.prompt_heads.runner = self.model_runner
            return model.prompt_tiers.load(digest, token).slot

        return _answer(load)

    def passepartout_unload(self, digest: str, token: str) -> dict[str, Any]:
        """Undoes that load, if there was one; says how many are left."""
        return _answer(lambda: _get_model(self).prompt_tiers.unload(digest, token))

    def passepartout_forget(self, digest: str) -> dict[str, Any]:
        """Drops the task from host memory."""
        return _answer(lambda: _get_model(self).prompt_tiers.forget(digest))


def _get_model(worker: Any) -> PromptedModel:
    model = worker.model_runner.get_model()
    if not isinstance(model, PromptedModel):
        raise EngineError(
            f"{type(model).__name__} takes no learned prompts: its family is not supported, or the plugin "
            "is not loaded (VLLM_PLUGINS must be unset or name passepartout)"
        )
    return model


def _answer(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"ok": call()}
    except PassepartoutError as error:
        return {"code": error.code, "message": str(error)}
    except Exception as error:  # one rank's exception would leave the others' answers unread in vLLM's queues
        return {"code": EngineError.code, "message": f"{type(error).__name__}: {error}"}
