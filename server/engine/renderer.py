"""Puts the current task into every prompt, whatever endpoint it came by.

vLLM 0.32 brings chats, completions, responses and offline prompts alike through `_process_tokens` of the
renderer; `plugin.register` puts `PromptRenderer` in the place of its `HfRenderer`.
"""

from typing import Any

from vllm.renderers.hf import HfRenderer

from prompts.errors import PictureRequiredError, UnsupportedError
from prompts.faults import fault, shown
from server.engine.handles import CURRENT_TASK
from server.engine.items import MODALITY, RESERVED_HASH_PREFIX
from server.engine.processing import PromptProcessorMixin
from server.engine.refusals import check_config

__all__ = ["PromptRenderer"]


class PromptRenderer(HfRenderer):
    """vLLM's renderer for Hugging Face tokenizers; without a current task it does as stock."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        if isinstance(self.mm_processor, PromptProcessorMixin):
            check_config(config)

    def _process_tokens(self, prompt: Any, **kwargs: Any) -> Any:
        return super()._process_tokens(self._with_task(prompt), **kwargs)

    async def _process_tokens_async(self, prompt: Any, **kwargs: Any) -> Any:
        return await super()._process_tokens_async(self._with_task(prompt), **kwargs)

    def _process_embeds(self, prompt: Any) -> Any:
        if (handle := CURRENT_TASK.get()) is not None:
            came, cure = "prompt_embeds", "send text or token ids"
            raise UnsupportedError(fault(f"task {handle.name}", expected="a prompt", came=came, cure=cure))
        return super()._process_embeds(prompt)

    def _with_task(self, prompt: Any) -> Any:
        """The prompt with the handle among its multimodal data."""
        data = dict(prompt.get("multi_modal_data") or {})
        uuids = prompt.get("multi_modal_uuids") or {}
        _check_uuids(uuids)
        handle = CURRENT_TASK.get()
        if handle is None:
            return prompt
        if not isinstance(self.mm_processor, PromptProcessorMixin):
            model = self.model_config.architecture
            raise UnsupportedError(f"task {handle.name}: learned prompts do not work with {model}")
        if handle.needs_picture and not _has_picture(data, uuids):
            raise PictureRequiredError(handle.name)
        return {**prompt, "multi_modal_data": {**data, MODALITY: [handle]}}


def _has_picture(data: dict[str, Any], uuids: dict[str, Any]) -> bool:
    images = data.get("image")
    return bool(uuids.get("image")) or (images is not None and not (isinstance(images, list) and not images))


def _check_uuids(uuids: dict[str, Any]) -> None:
    """A client may name its pictures, but not with a name out of our part of the caches."""
    for modality, given in uuids.items():
        for uuid in [given] if isinstance(given, str) else given or []:
            if modality == MODALITY or (uuid or "").startswith(RESERVED_HASH_PREFIX):
                expected = f"a uuid that does not begin with {RESERVED_HASH_PREFIX}"
                raise UnsupportedError(
                    fault(f"uuid of {modality}", expected=expected, came=shown(uuid), cure="choose another")
                )
