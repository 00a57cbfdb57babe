"""Random PEFT adapters on a tiny checkpoint, PEFT's own `generate` under them, and vLLM with all of them."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from prompts.interchange_peft import import_peft
from server.engine.facts import Capacity
from server.engine.handles import TaskHandle
from server.engine.offline import OfflineTasks, engine_arguments
from tests.engine.families import start_llm_here
from tests.engine.serving import BLOCK, PICTURES, Case, cached_blocks

__all__ = ["ADAPTERS", "LlavaOracle", "PeftOracle", "PeftServed", "TextOracle", "serve_adapters"]

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
_ROOM = Capacity(tasks=8, text_rows=16, vision_rows=0, prefix_rows=52)


class PeftOracle:
    """A checkpoint as transformers has it, and as PEFT wraps it. `model_class`: transformers' for it."""

    model_class: Any

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> Any:
        return self.model_class.from_pretrained(
            self.folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def save_adapter(self, config: Any, folder: Path, *, seed: int) -> PeftModel:
        """A random adapter with everything that was there in training; PEFT saves it into `folder`."""
        # PEFT writes the base model's name into the config it is given
        model = get_peft_model(self.load(), copy.deepcopy(config)).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.prompt_encoder.parameters():
                parameter.copy_(1.5 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder)
        return model

    def inputs(self, case: Case) -> Any:
        """What the model is given for the case."""
        raise NotImplementedError

    @torch.no_grad()
    def generate(self, model: Any, case: Case) -> list[int]:
        """The case's greedy tokens, by the model's own `generate`."""
        inputs = self.inputs(case)
        inputs.pop("token_type_ids", None)
        written = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
        return written[0, -TOKENS:].tolist()


class LlavaOracle(PeftOracle):
    """LLaVA, pictures and all."""

    model_class = LlavaForConditionalGeneration

    def inputs(self, case: Case) -> Any:
        processor = AutoProcessor.from_pretrained(self.folder)
        return processor(images=PICTURES[: case.pictures] or None, text=case.prompt, return_tensors="pt")


class TextOracle(PeftOracle):
    """A plain language model."""

    model_class = AutoModelForCausalLM

    def inputs(self, case: Case) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)(case.prompt, return_tensors="pt")


@dataclass(frozen=True)
class PeftServed:
    """A running engine with the imported adapters, and what PEFT answers to each case.

    `adapters`: name -> the folder that PEFT saved, and the model it was saved from.
    """

    oracle: PeftOracle
    tasks: OfflineTasks
    adapters: Mapping[str, tuple[Path, PeftModel]]
    handles: Mapping[str, TaskHandle]
    expected: Mapping[Case, list[int]]

    def ask(self, cases: Sequence[Case]) -> list[Any]:
        """All cases in one batch; vLLM's `RequestOutput`s."""
        from vllm import SamplingParams

        greedy = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
        prompts = [
            {"prompt": case.prompt, "multi_modal_data": {"image": PICTURES[: case.pictures]}}
            if case.pictures
            else {"prompt": case.prompt}
            for case in cases
        ]
        handles = [self.handles[case.task] if case.task else None for case in cases]
        return self.tasks.generate(prompts, handles, greedy)

    def assert_alone(self, case: Case) -> None:
        """PEFT's tokens, at first and from the prefix cache."""
        assert self.tasks.llm.reset_prefix_cache()
        for round_trip in ("first", "cached"):
            (output,) = self.ask([case])
            assert list(output.outputs[0].token_ids) == self.expected[case], round_trip
        assert output.num_cached_tokens == cached_blocks(output) * BLOCK > 0

    def assert_mixed(self) -> None:
        """PEFT's tokens for all cases in one batch."""
        assert self.tasks.llm.reset_prefix_cache()
        outputs = self.ask(list(self.expected))
        came = [list(output.outputs[0].token_ids) for output in outputs]
        assert dict(zip(self.expected, came, strict=True)) == self.expected


@contextmanager
def serve_adapters(folder: Path, oracle: PeftOracle, cases: Sequence[Case]) -> Iterator[PeftServed]:
    """vLLM on the oracle's checkpoint with every adapter that a case names, imported by `import_peft`."""
    names = sorted({case.task for case in cases if case.task})
    adapters = {
        name: (folder / name, oracle.save_adapter(ADAPTERS[name], folder / name, seed=seed))
        for seed, name in enumerate(ADAPTERS, start=1)
        if name in names
    }
    plain = oracle.load()
    expected = {case: oracle.generate(adapters[case.task][1] if case.task else plain, case) for case in cases}
    assert len({tuple(tokens) for tokens in expected.values()}) == len(cases), "an adapter changes nothing"
    bundles = {
        name: import_peft(source, folder / "bundles" / name, name=name, base=oracle.folder)
        for name, (source, _) in adapters.items()
    }
    room = engine_arguments(_ROOM)
    with start_llm_here(oracle.folder, folder / "cache", enforce_eager=True, **room) as llm:
        tasks = OfflineTasks(llm, oracle.folder)
        handles = {name: tasks.load(bundle) for name, bundle in bundles.items()}
        yield PeftServed(oracle, tasks, adapters, handles, expected)
