"""Entry point `passepartout` of `vllm.general_plugins`: vLLM 0.32 calls `register` in each of its processes.

Nothing heavy is imported here: classes are named as strings and imported by vLLM when it needs them.
"""

__all__ = ["WORKER_EXTENSION", "register"]

WORKER_EXTENSION = "server.engine.worker.PromptWorkerExtension"
"""For vLLM's `worker_extension_cls`."""

_MODELS = {
    "LlamaForCausalLM": "server.engine.families.text:PromptedLlama",
    "LlavaForConditionalGeneration": "server.engine.families.llava:PromptedLlava",
    "Qwen2_5_VLForConditionalGeneration": "server.engine.families.qwen_vl:PromptedQwen25VL",
    "Qwen2ForCausalLM": "server.engine.families.text:PromptedQwen2",
    "Qwen2VLForConditionalGeneration": "server.engine.families.qwen_vl:PromptedQwen2VL",
    "Qwen3ForCausalLM": "server.engine.families.text:PromptedQwen3",
    "Qwen3VLForConditionalGeneration": "server.engine.families.qwen_vl:PromptedQwen3VL",
}
"""vLLM's architecture -> our class, alphabetically."""


def register() -> None:
    """Puts our model classes and renderer in the place of vLLM's; more calls change nothing."""
    from vllm import ModelRegistry
    from vllm.renderers.registry import RENDERER_REGISTRY

    for architecture, place in _MODELS.items():
        ModelRegistry.register_model(architecture, place)
    RENDERER_REGISTRY.renderers["hf"] = ("server.engine.renderer", "PromptRenderer")
