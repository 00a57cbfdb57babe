"""Engine options that learned prompts or frames do not work with, and the compile salt.

Checked in the front end (`renderer.py`) and again in every worker (`families/base.py`). For vLLM 0.32.
"""

from typing import Any

from vllm.multimodal import MULTIMODAL_REGISTRY

from prompts.errors import ConfigError
from prompts.faults import fault
from server.engine.facts import ADDITIONAL_CONFIG_KEY, Capacity
from server.engine.items import MODALITY

__all__ = ["check_config", "find_frame_refusal", "salt_compile_cache"]

_INJECTION_VERSION = 4
"""Raise it whenever what is compiled into the model changes (`injection.py`, `prefixes.py`, `bank.py`)."""

_DRAFTERS_WITHOUT_A_MODEL = {"ngram", "ngram_gpu", "suffix"}


def check_config(vllm_config: Any) -> None:
    """Refuses options under which a prompt would be dropped or misplaced, or tensors come from clients.

    Raises:
        ConfigError: with every such option.
    """
    parallel, compilation = vllm_config.parallel_config, vllm_config.compilation_config
    multimodal = vllm_config.model_config.multimodal_config
    speculative, lora = vllm_config.speculative_config, vllm_config.lora_config
    drafter = speculative.method if speculative is not None else None
    wrong = {
        "pipeline_parallel_size": parallel.pipeline_parallel_size > 1,
        "prefill_context_parallel_size": parallel.prefill_context_parallel_size > 1,
        "enable_dbo, ubatch_size": parallel.use_ubatching,
        f"speculative_config (method {drafter})": drafter not in {None, *_DRAFTERS_WITHOUT_A_MODEL},
        "cudagraph_mm_encoder": compilation.cudagraph_mm_encoder,
        "ec_transfer_config": vllm_config.ec_transfer_config is not None,
        "enable_sleep_mode": vllm_config.model_config.enable_sleep_mode,
        "enable_elastic_ep": getattr(parallel, "enable_elastic_ep", False),
        "mm_encoder_only": multimodal is not None and multimodal.mm_encoder_only,
        "language_model_only": multimodal is not None and multimodal.language_model_only,
        "enable_mm_embeds": multimodal is not None and multimodal.enable_mm_embeds,
        "video_pruning_rate": multimodal is not None and multimodal.is_multimodal_pruning_enabled(),
        f"limit_mm_per_prompt.{MODALITY}": multimodal is not None
        and multimodal.get_limit_per_prompt(MODALITY) == 0,
        "enable_tower_connector_lora": lora is not None and lora.enable_tower_connector_lora,
    }
    cure = "leave the option out, or serve without learned prompts (VLLM_PLUGINS without passepartout)"
    refused = [name for name, is_wrong in wrong.items() if is_wrong]
    faults = [fault(name, expected="off", came="on", cure=cure) for name in refused]
    if faults:
        raise ConfigError("engine options", faults)


def find_frame_refusal(model_config: Any) -> str | None:
    """Why no frame goes around this model's pictures, None where one does.

    A frame is unbounded float: transformers' PIL image processors, which `mm_processor_kwargs` may ask for
    and a torchvision too old for a family leads to, would round it to 8 bits without a word.
    """
    info = MULTIMODAL_REGISTRY.get_processing_info(model_config)
    if "image" not in info.supported_mm_limits:
        return "the model that is served takes no pictures"
    image_processor = info.get_hf_processor().image_processor
    if getattr(image_processor, "backend", None) == "torchvision":
        return None
    return (
        f"{type(image_processor).__name__} takes pictures of 8 bits alone; serve with transformers' "
        "torchvision image processor (mm_processor_kwargs without backend and use_fast)"
    )


def salt_compile_cache(vllm_config: Any) -> Capacity:
    """Makes vLLM's compile cache tell our engine from stock; returns the room for tasks.

    vLLM keys compiled artifacts by its config and the model's source, neither of which knows our hooks: an
    artifact of the stock model would be loaded and would drop every prompt without a word. It must be called
    before any submodule is built (they copy the config).
    """
    given = vllm_config.additional_config
    if not isinstance(given, dict):
        came, cure = type(given).__name__, "pass a JSON object"
        raise ConfigError(
            "engine options", [fault("additional_config", expected="a dict", came=came, cure=cure)]
        )
    capacity = Capacity.from_additional_config(given)
    salt = {"injection": _INJECTION_VERSION, **vars(capacity)}
    vllm_config.additional_config = {**given, ADDITIONAL_CONFIG_KEY: salt}
    return capacity
