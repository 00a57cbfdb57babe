"""Eager vLLM against plain transformers: every kind of task alone, from the prefix cache, and mixed."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from prompts.bundle import save_bundle
from prompts.errors import BundleError, CapacityError, PictureRequiredError, UnsupportedError
from server.engine.handles import using_task
from server.engine.items import RESERVED_HASH_PREFIX
from tests.engine.conftest import Serve
from tests.engine.families import assert_parity_alone
from tests.engine.serving import (
    ALL_CASES,
    BLOCK,
    CAPACITY,
    PICTURES,
    Case,
    Served,
    assert_same,
    cached_blocks,
)
from tests.engine.tiny_llava import PATCHES
from tests.engine.tiny_tasks import make_task

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def served(serve: Serve) -> Iterator[Served]:
    with serve(enforce_eager=True) as running:
        yield running


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_alone_and_again_from_the_prefix_cache(served: Served, case: Case) -> None:
    assert_parity_alone(served, case)


def test_all_in_one_batch_and_again_from_the_prefix_cache(served: Served) -> None:
    expected = [served.expect(case) for case in ALL_CASES]
    served.forget_cached()
    for round_trip in ("first", "cached"):
        outputs = served.ask(ALL_CASES)
        for case, output, answer in zip(ALL_CASES, outputs, expected, strict=True):
            assert_same(output, answer, (round_trip, str(case)))
    assert all(output.num_cached_tokens == cached_blocks(output) * BLOCK for output in outputs)


def test_the_engine_itself_counts_the_cached_tokens(served: Served) -> None:
    def counted() -> tuple[int, int]:
        values = {metric.name: metric for metric in served.tasks.llm.get_metrics()}
        return values["vllm:prefix_cache_hits"].value, values["vllm:prefix_cache_queries"].value

    case = Case("long-text")
    served.ask([case])
    hits_before, queries_before = counted()
    output = served.ask([case])[0]
    hits, queries = counted()
    assert queries - queries_before == len(output.prompt_token_ids)
    assert hits - hits_before == cached_blocks(output) * BLOCK >= 40 // BLOCK * BLOCK


def test_prompt_lengths(served: Served) -> None:
    """P_t placeholders in front, P_v more for each picture in mode `released` alone."""

    def length(case: Case) -> int:
        return len(served.ask([case], tokens=1)[0].prompt_token_ids)

    base = length(Case(None))
    assert length(Case("text")) - base == 5
    assert length(Case("vision")) - base == 3
    assert length(Case("vision-paper")) == base
    assert length(Case("everything")) - base == 3 + 2
    assert length(Case("everything", 2)) - length(Case(None, 2)) == 3 + 2 * 2
    images = served.ask([Case(None)], tokens=1)[0].prompt_token_ids.count(served.oracle.config.image_token_id)
    assert images == PATCHES


def test_same_name_and_same_shapes_share_no_cache(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A task replaced under its name: same picture, same text, same lengths, other values."""
    cases = [Case("twin"), Case("twin", 2)]
    answers = []
    for seed in (101, 102):
        folder = tmp_path_factory.mktemp("twin")
        twin = make_task(
            folder, "twin", served.model, seed=seed, text=4, vision=2, projector=True, frame=True
        )
        handle = served.load(twin)
        expected = [served.expect(case) for case in cases]
        for _ in range(2):
            outputs = served.ask(cases)
            for output, answer in zip(outputs, expected, strict=True):
                assert_same(output, answer, seed)
            answers.append(([output.num_cached_tokens for output in outputs], expected))
        served.tasks.unload(handle)
    del served.handles["twin"]
    first, _, second, second_again = (cached for cached, _ in answers)
    assert first == second == [0, 0]
    assert all(cached >= BLOCK for cached in second_again)
    assert not torch.allclose(answers[0][1][0].logprobs, answers[2][1][0].logprobs, atol=0.1)


def test_tasks_that_leave_pictures_alone_share_the_base_models_encoding(served: Served) -> None:
    """The other side of the keys: no needless encoder run for a task of text prompts only."""
    data = {"image": PICTURES[:1]}
    hashes = {}
    for name in (None, "text", "long-text", "vision", "frame"):
        with using_task(served.handles[name] if name else None):
            rendered = served.tasks.llm.renderer.render_cmpl(
                [{"prompt": Case(name).prompt, "multi_modal_data": data}]
            )
        hashes[name] = rendered[0]["mm_hashes"]["image"][0]
    assert hashes[None] == hashes["text"] == hashes["long-text"]
    assert len({hashes[None], hashes["vision"], hashes["frame"]}) == 3
    assert hashes["vision"].startswith(RESERVED_HASH_PREFIX + served.handles["vision"].cache_key)


def test_prompt_logprobs_are_the_models_own_beside_a_task_with_an_lm_head(served: Served) -> None:
    """vLLM makes them with one more call of the same method; the task itself cannot have them."""
    from vllm import SamplingParams

    head = served.handles["head"]
    greedy = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=3)
    prompts = [{"prompt": Case(None, 0).prompt}] * 2

    def scores(output: Any) -> list[float]:
        return [max(one.logprob for one in place.values()) for place in output.prompt_logprobs[1:]]

    alone = served.tasks.generate(prompts[:1], [None], greedy)[0]
    with pytest.raises(UnsupportedError, match="expected None, came 3, and task head has an lm_head"):
        served.tasks.generate(prompts, [None, head], greedy)
    plain = SamplingParams(temperature=0, max_tokens=2)
    mixed, _ = served.tasks.generate(prompts, [None, head], [greedy, plain])
    assert scores(mixed) == pytest.approx(scores(alone), abs=1e-4)


def test_chat_takes_a_task_too(served: Served) -> None:
    from vllm import SamplingParams

    chat = [{"role": "user", "content": "name the bird in the picture, please, and tell me why it is one."}]
    greedy = SamplingParams(temperature=0, max_tokens=8, logprobs=384, ignore_eos=True)
    outputs = served.tasks.chat([chat, chat], [served.handles["text"], None], greedy)
    text = f"USER: {chat[0]['content']} ASSISTANT:"
    for output, name in zip(outputs, ("text", None), strict=True):
        assert_same(output, served.oracle.answer(text, [], served.bundles[name] if name else None), name)


def test_what_needs_a_picture_is_refused_without_one(served: Served) -> None:
    for name in ("vision", "projector", "frame"):
        with pytest.raises(PictureRequiredError, match=name):
            served.ask([Case(name, 0)])
    assert_same(served.ask([Case(None, 0)])[0], served.expect(Case(None, 0)), "the engine goes on")


def test_a_client_cannot_name_a_picture_out_of_our_caches(served: Served) -> None:
    from vllm import SamplingParams

    prompt = {
        "prompt": Case(None).prompt,
        "multi_modal_data": {"image": PICTURES[:1]},
        "multi_modal_uuids": {"image": [RESERVED_HASH_PREFIX + served.handles["text"].cache_key]},
    }
    with pytest.raises(UnsupportedError, match="uuid of image"):
        served.tasks.generate([prompt], [None], SamplingParams(max_tokens=1))


def test_a_bundle_that_does_not_fit_is_refused_by_name(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("misfits")
    with pytest.raises(BundleError, match="expected 3 layers of width 64, came 3 layers of width 32"):
        served.tasks.load(make_task(folder, "narrow", served.model, seed=1, text=2, hidden=32))
    changed = make_task(folder, "changed", served.model, seed=1, text=2)
    save_bundle(folder / "changed", changed.manifest, {"text.prompts": torch.ones(3, 2, 64)})
    with pytest.raises(Exception, match="changed: expected digest"):
        served.tasks.load(changed)


def test_room_is_checked_and_given_back(served: Served, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("room")
    held = [served.bundles[name].manifest.text for name in served.handles]
    left = CAPACITY.text_rows - sum(spec.length for spec in held if spec is not None)
    fits = served.load(make_task(folder, "fits", served.model, seed=1, text=left))
    assert_same(served.ask([Case("fits")])[0], served.expect(Case("fits")), "all rows used")
    with pytest.raises(CapacityError, match=r"no room on the device \(text_rows\): all of it"):
        served.tasks.load(make_task(folder, "no-room", served.model, seed=2, text=1))
    served.tasks.unload(fits)
    again = served.load(make_task(folder, "again", served.model, seed=3, text=left))
    assert again.slot > fits.slot
    assert_same(served.ask([Case("again")])[0], served.expect(Case("again")), "rows used again")
    served.tasks.unload(again)
    assert_same(served.ask([Case("text")])[0], served.expect(Case("text")), "held all the while")
    back = served.tasks.load(served.bundles["fits"])
    assert back == fits
    output = served.ask([Case("fits")])[0]
    assert_same(output, served.expect(Case("fits")), "left the device and came back")
    assert output.num_cached_tokens > 0, "its prefix was still cached"
    served.tasks.unload(back)


def test_one_digest_is_resident_once(served: Served) -> None:
    handle = served.tasks.load(served.bundles["text"])
    assert handle == served.handles["text"]
    served.tasks.unload(handle)
    assert_same(served.ask([Case("text")])[0], served.expect(Case("text")), "still loaded")
