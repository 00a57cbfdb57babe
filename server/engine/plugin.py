"""Entry point `passepartout` of `vllm.general_plugins`: vLLM 0.32 calls `register` in each of its processes.

Nothing heavy is imported here: classes are named as strings and imported by vLLM when it needs them.
"""

__all__ = ["WORKER_EXTENSION", "register"]

WORKER_EXTENSION = "server.engine.worker.PromptWorkerExtension"
"""For vLLM's `worker_extension_cls`."""

_FAMILIES = "server.engine.families"
_MODELS = {
    "Blip2ForConditionalGeneration": f"{_FAMILIES}.blip2:PromptedBlip2",
    "Idefics3ForConditionalGeneration": f"{_FAMILIES}.smolvlm:PromptedIdefics3",
    "LlamaForCausalLM": f"{_FAMILIES}.text:PromptedLlama",
    "LlavaForConditionalGeneration": f"{_FAMILIES}.llava:PromptedLlava",
    "LlavaOnevisionForConditionalGeneration": f"{_FAMILIES}.llava_onevision:PromptedLlavaOnevision",
    "Qwen2_5_VLForConditionalGeneration": f"{_FAMILIES}.qwen_vl:PromptedQwen25VL",
    "Qwen2ForCausalLM": f"{_FAMILIES}.text:PromptedQwen2",
    "Qwen2VLForConditionalGeneration": f"{_FAMILIES}.qwen_vl:PromptedQwen2VL",
    "Qwen3ForCausalLM": f"{_FAMILIES}.text:PromptedQwen3",
    "Qwen3VLForConditionalGeneration": f"{_FAMILIES}.qwen_vl:PromptedQwen3VL",
    "SmolVLMForConditionalGeneration": f"{_FAMILIES}.smolvlm:PromptedSmolVlm",
}
"""vLLM's architecture -> our class, alphabetically."""


def register() -> None:
    """Puts our model classes and renderer in the place of vLLM's; more calls change nothing."""
    from vllm import ModelRegistry
    from vllm.renderers.registry import RENDERER_REGISTRY

    for architecture, place in _MODELS.items():
        ModelRegistry.register_model(architecture, place)
    RENDERER_REGISTRY.renderers["hf"] = ("server.engine.renderer", "PromptRenderer")
