"""Plain transformers as an engine to measure: learned prompts as one would serve them by hand.

One request after the other: the task's prompts through hooks on the decoder's layers in the first pass, its
keys and values kept in a cache, then greedy tokens one by one. It is the trainers' own inference code
(`training.backbone`, `training.decoding`), whose answers the tests hold against the server's, with
transformers' fused attention.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.child import Answer
from benchmarks.jobs import Batch, EngineSpec, Report, Request
from prompts.bundle import load_bundle
from training.backbone import NO_PROMPTS, DeepPrompts, LlavaBackbone, choose_device, choose_dtype
from training.decoding import generate

__all__ = ["serve"]

_NEVER = -1  # no token has this id: answers of a fixed length pass over the end token


@contextmanager
def serve(spec: EngineSpec) -> Iterator[tuple[dict[str, Any], Answer]]:
    """Loads the checkpoint and the bundles' prompts."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    device = choose_device("auto")
    dtype = choose_dtype(spec.options["dtype"], device)
    model = LlavaForConditionalGeneration.from_pretrained(spec.model, dtype=dtype, attn_implementation="sdpa")
    backbone = LlavaBackbone(model, AutoProcessor.from_pretrained(spec.model), device=device)
    backbone.stop_ids = [_NEVER]
    tasks = [_cast(DeepPrompts.of_bundle(load_bundle(path), device), dtype) for path in spec.bundles]
    facts = {"model": "transformers", "dtype": str(dtype), "threads": torch.get_num_threads()}
    yield facts, lambda batch: _answer(backbone, tasks, batch)


def _cast(deep: DeepPrompts, dtype: torch.dtype) -> DeepPrompts:
    """Prompts in the model's dtype, so that no request pays for it."""
    return DeepPrompts(
        text=None if deep.text is None else deep.text.to(dtype),
        vision=None if deep.vision is None else deep.vision.to(dtype),
        vision_mode=deep.vision_mode,
        projector=deep.projector and {name: one.to(dtype) for name, one in deep.projector.items()},
    )


def _answer(backbone: LlavaBackbone, tasks: list[DeepPrompts], batch: Batch) -> Report:
    started = time.perf_counter()
    texts = [_answer_one(backbone, tasks, request, batch.tokens) for request in batch.requests]
    seconds = time.perf_counter() - started
    return Report(seconds=seconds, texts=texts, answer_tokens=[batch.tokens] * len(texts))


def _answer_one(backbone: LlavaBackbone, tasks: list[DeepPrompts], request: Request, tokens: int) -> str:
    deep = NO_PROMPTS if request.task is None else tasks[request.task]
    prompt = request.prompt
    ids = tuple(backbone.chat.plain_ids(prompt)) if isinstance(prompt, str) else prompt
    with torch.inference_mode():
        features = None
        if request.pictures:
            features = backbone.image_features(backbone.process(list(request.pictures)), deep)
        return generate(backbone, [ids], features=features, deep=deep, max_new_tokens=tokens)[0]
