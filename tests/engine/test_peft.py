"""Adapters that PEFT saved, imported and served: the greedy tokens of PEFT's own `generate`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import AutoProcessor, LlavaForConditionalGeneration

from prompts.bundle import Bundle
from prompts.interchange_peft import import_peft
from server.engine.facts import Capacity
from server.engine.offline import OfflineTasks, engine_arguments
from tests.engine.families import start_llm_here
from tests.engine.serving import BLOCK, PICTURES, Case, cached_blocks

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

TOKENS = 8
COMMON: dict[str, Any] = {"task_type": "CAUSAL_LM"}
ADAPTERS: dict[str, Any] = {
    "prompt-tuning": PromptTuningConfig(num_virtual_tokens=6, **COMMON),
    "p-tuning-mlp": PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=32, **COMMON),
    "p-tuning-lstm": PromptEncoderConfig(
        num_virtual_tokens=3, encoder_hidden_size=32, encoder_reparameterization_type="LSTM", **COMMON
    ),
    "prefix-tuning": PrefixTuningConfig(num_virtual_tokens=5, **COMMON),
    "prefix-tuning-long": PrefixTuningConfig(num_virtual_tokens=40, **COMMON),
    "prefix-tuning-projected": PrefixTuningConfig(
        num_virtual_tokens=7, prefix_projection=True, encoder_hidden_size=32, **COMMON
    ),
}
CASES = [Case(task, pictures) for task in (None, *ADAPTERS) for pictures in (0, 1)]


class PeftOracle:
    """The tiny LLaVA as transformers has it, and as PEFT wraps it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processor = AutoProcessor.from_pretrained(folder)

    def load(self) -> Any:
        return LlavaForConditionalGeneration.from_pretrained(
            self._folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def save_adapter(self, config: Any, folder: Path, *, seed: int) -> PeftModel:
        """A random adapter with everything that was there in training; PEFT saves it into `folder`."""
        model = get_peft_model(self.load(), config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.prompt_encoder.parameters():
                parameter.copy_(1.5 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder)
        return model

    @torch.no_grad()
    def generate(self, model: Any, case: Case) -> list[int]:
        """The case's greedy tokens, by the model's own `generate`."""
        pictures = PICTURES[: case.pictures] or None
        inputs = self._processor(images=pictures, text=case.prompt, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        written = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
        return written[0, -TOKENS:].tolist()


@pytest.fixture(scope="module")
def oracle(tiny_model: Path) -> PeftOracle:
    return PeftOracle(tiny_model)


@pytest.fixture(scope="module")
def adapters(
    oracle: PeftOracle, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, PeftModel]]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: (folder / name, oracle.save_adapter(config, folder / name, seed=seed))
        for seed, (name, config) in enumerate(ADAPTERS.items(), start=1)
    }


@pytest.fixture(scope="module")
def bundles(
    adapters: dict[str, tuple[Path, PeftModel]], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: import_peft(source, folder / name, name=name, base=tiny_model)
        for name, (source, _) in adapters.items()
    }


@pytest.fixture(scope="module")
def tasks(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OfflineTasks]:
    room = engine_arguments(Capacity(tasks=8, text_rows=16, vision_rows=0, prefix_rows=52))
    with start_llm_here(tiny_model, tmp_path_factory.mktemp("cache"), enforce_eager=True, **room) as llm:
        yield OfflineTasks(llm, tiny_model)


@pytest.fixture(scope="module")
def handles(tasks: OfflineTasks, bundles: dict[str, Bundle]) -> dict[str, Any]:
    return {name: tasks.load(bundle) for name, bundle in bundles.items()}


def ask(tasks: OfflineTasks, handles: dict[str, Any], cases: list[Case]) -> list[Any]:
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    prompts = [
        {"prompt": case.prompt, "multi_modal_data": {"image": PICTURES[: case.pictures]}}
        if case.pictures
        else {"prompt": case.prompt}
        for case in cases
    ]
    return tasks.generate(prompts, [handles[case.task] if case.task else None for case in cases], greedy)


@pytest.fixture(scope="module")
def expected(oracle: PeftOracle, adapters: dict[str, tuple[Path, PeftModel]]) -> dict[Case, list[int]]:
    plain = oracle.load()
    answers = {case: oracle.generate(adapters[case.task][1] if case.task else plain, case) for case in CASES}
    assert len({tuple(tokens) for tokens in answers.values()}) == len(CASES), "an adapter changes nothing"
    return answers


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_tokens_of_pefts_own_generate(
    tasks: OfflineTasks, handles: dict[str, Any], expected: dict[Case, list[int]], case: Case
) -> None:
    """Alone, then from the prefix cache."""
    assert tasks.llm.reset_prefix_cache()
    for round_trip in ("first", "cached"):
        (output,) = ask(tasks, handles, [case])
        assert list(output.outputs[0].token_ids) == expected[case], round_trip
    assert output.num_cached_tokens == cached_blocks(output) * BLOCK > 0


def test_all_kinds_in_one_batch(
    tasks: OfflineTasks, handles: dict[str, Any], expected: dict[Case, list[int]]
) -> None:
    assert tasks.llm.reset_prefix_cache()
    outputs = ask(tasks, handles, CASES)
    assert {
        case: list(output.outputs[0].token_ids) for case, output in zip(CASES, outputs, strict=True)
    } == expected


def test_what_peft_loads_again_answers_alike(
    oracle: PeftOracle, adapters: dict[str, tuple[Path, PeftModel]], expected: dict[Case, list[int]]
) -> None:
    """The saved file is the adapter, encoder folded away: the oracle above had the encoder itself."""
    case = Case("prefix-tuning-projected", 1)
    loaded = PeftModel.from_pretrained(oracle.load(), str(adapters[case.task][0])).eval()
    assert oracle.generate(loaded, case) == expected[case]
