"""Starts and stops vLLM's own LLaVA, compiled, with options and environment like those of our engine.

    python -m tests.engine.stock MODEL OPTIONS      (OPTIONS: JSON, for `LLM`)

What it compiles stays in VLLM_CACHE_ROOT. Our plugin loads, as in every vLLM process, and is undone.
"""

import json
import sys

from tests.engine.serving import engine_options


def main(model: str, options: str) -> None:
    """Starts vLLM in this process and answers once."""
    from vllm import LLM, ModelRegistry, SamplingParams
    from vllm.plugins import load_general_plugins
    from vllm.renderers.registry import RENDERER_REGISTRY

    load_general_plugins()
    ModelRegistry.register_model(
        "LlavaForConditionalGeneration", "vllm.model_executor.models.llava:LlavaForConditionalGeneration"
    )
    RENDERER_REGISTRY.renderers["hf"] = ("vllm.renderers.hf", "HfRenderer")
    llm = LLM(model, **engine_options(**json.loads(options)))
    llm.generate("hello", SamplingParams(max_tokens=2), use_tqdm=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
