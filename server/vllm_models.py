"""Seam: vLLM's list of models and the name it puts into answers. Written for vLLM 0.32.

`OpenAIServingModels` (`vllm.entrypoints.openai.models.serving`) stands in `app.state.openai_serving_models`:
its coroutine `show_available_models()` gives a pydantic list, its `model_name(lora_request)` the `model` of
an answer.
"""

from typing import Any

from starlette.datastructures import State

from server.scope import CURRENT_SCOPE

__all__ = ["echo_alias", "list_base_models"]


async def list_base_models(state: State) -> dict[str, Any]:
    """vLLM's own answer to `GET /v1/models`: the base model's names and LoRA adapters."""
    models = await state.openai_serving_models.show_available_models()
    listed: dict[str, Any] = models.model_dump()
    return listed


def echo_alias(state: State) -> None:
    """Answer a request for `base:task` with that name in `model`, as clients of OpenAI's API expect."""
    models = state.openai_serving_models
    own_name = models.model_name

    def model_name(lora_request: object = None) -> str:
        scope = CURRENT_SCOPE.get()
        if scope is not None and scope.alias is not None and lora_request is None:
            return scope.alias
        name: str = own_name(lora_request)
        return name

    models.model_name = model_name
