"""Engine options refused at the start, on vLLM's own config; and the salt of its compile cache."""

from pathlib import Path
from typing import Any

import pytest

from prompts.errors import ConfigError
from server.engine.facts import ADDITIONAL_CONFIG_KEY, Capacity
from server.engine.refusals import check_config, find_frame_refusal, salt_compile_cache
from tests.engine.serving import CAPACITY, engine_options

pytestmark = pytest.mark.engine


def make_config(model: Path, **options: Any) -> Any:
    from vllm import EngineArgs

    given = engine_options(**options)
    del given["max_logprobs"], given["disable_log_stats"]
    return EngineArgs(str(model), **given).create_engine_config()


def test_an_ordinary_config_passes(tiny_model: Path) -> None:
    check_config(make_config(tiny_model, speculative_config={"method": "ngram", "num_speculative_tokens": 2}))


@pytest.mark.parametrize(
    ("said", "place", "name", "value"),
    [
        ("pipeline_parallel_size", "parallel_config", "pipeline_parallel_size", 2),
        ("prefill_context_parallel_size", "parallel_config", "prefill_context_parallel_size", 2),
        ("enable_dbo", "parallel_config", "enable_dbo", True),
        ("cudagraph_mm_encoder", "compilation_config", "cudagraph_mm_encoder", True),
        ("ec_transfer_config", None, "ec_transfer_config", object()),
        ("mm_encoder_only", "model_config.multimodal_config", "mm_encoder_only", True),
        ("video_pruning_rate", "model_config.multimodal_config", "video_pruning_rate", 0.5),
        ("language_model_only", "model_config.multimodal_config", "language_model_only", True),
        ("enable_mm_embeds", "model_config.multimodal_config", "enable_mm_embeds", True),
        ("enable_sleep_mode", "model_config", "enable_sleep_mode", True),
    ],
)
def test_what_would_drop_a_prompt_is_refused(
    tiny_model: Path, said: str, place: str | None, name: str, value: object
) -> None:
    config = make_config(tiny_model)
    target = config
    for part in place.split(".") if place else []:
        target = getattr(target, part)
    assert hasattr(target, name)
    object.__setattr__(target, name, value)
    with pytest.raises(
        ConfigError, match=f"(?s)engine options.*{said}.*expected off, came on; leave the option"
    ):
        check_config(config)


@pytest.mark.parametrize("method", ["eagle", "eagle3", "mtp", "draft_model"])
def test_drafters_that_read_our_handles_are_refused(tiny_model: Path, method: str) -> None:
    speculating = {"method": "ngram", "num_speculative_tokens": 2}
    config = make_config(tiny_model, speculative_config=speculating)
    object.__setattr__(config.speculative_config, "method", method)
    with pytest.raises(ConfigError, match=rf"speculative_config \(method {method}\)"):
        check_config(config)


def test_every_option_is_named_at_once(tiny_model: Path) -> None:
    config = make_config(tiny_model, limit_mm_per_prompt={"learned_prompt": 0})
    object.__setattr__(config.parallel_config, "pipeline_parallel_size", 2)
    with pytest.raises(ConfigError) as raised:
        check_config(config)
    assert len(raised.value.faults) == 2


@pytest.mark.parametrize("asked", [{"backend": "pil"}, {"use_fast": False}], ids=str)
def test_an_image_processor_that_rounds_takes_no_frame(tiny_model: Path, asked: dict[str, Any]) -> None:
    assert find_frame_refusal(make_config(tiny_model).model_config) is None
    rounding = make_config(tiny_model, mm_processor_kwargs=asked).model_config
    refusal = find_frame_refusal(rounding)
    assert refusal is not None
    assert refusal.startswith(
        "CLIPImageProcessorPil takes pictures of 8 bits alone; serve with transformers'"
    )


def test_the_salt_changes_the_key_of_what_is_compiled(tiny_model: Path) -> None:
    """Even where the room was given already: a stock model under the same config must have another key."""
    config = make_config(tiny_model)
    stock = config.compute_hash()
    assert salt_compile_cache(config) == CAPACITY
    ours = config.compute_hash()
    roomier = make_config(tiny_model, additional_config={ADDITIONAL_CONFIG_KEY: {"text_rows": 7}, "other": 1})
    assert salt_compile_cache(roomier) == Capacity(text_rows=7)
    assert roomier.additional_config["other"] == 1
    assert len({stock, ours, roomier.compute_hash()}) == 3
