"""What vLLM's scheduler may do to a request with a task: split its prompt rows, take its KV blocks away and
compute it once more, give it several answers, drop it half way. One engine of few KV blocks, small chunks and
no prefix cache; that each of these happened is read from vLLM itself.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prompts.errors import BundleError, PictureRequiredError
from server.engine.handles import using_task
from server.engine.offline import OfflineTasks
from tests.engine.beams import search_beams
from tests.engine.oracle import Oracle
from tests.engine.serving import ALL_CASES, MAX_LOGPROB_ERROR, PICTURES, Case, Served, assert_same, load_all
from tests.engine.stepping import Chunk, Recorder, start_here
from tests.engine.tiny_llava import VOCABULARY
from tests.engine.tiny_tasks import make_task

pytestmark = [
    pytest.mark.engine,
    # vLLM looks at every attribute of every module when its engine starts in this process
    pytest.mark.filterwarnings("ignore:.*reduce_op. is deprecated:FutureWarning"),
]

CHUNK = 33
"""Tokens of a prompt that one step computes: 33 of the 40 rows of `long-text`."""
OPTIONS = {
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "long_prefill_token_threshold": CHUNK,
    "max_num_batched_tokens": 2 * CHUNK,
    "max_num_seqs": 8,
    "num_gpu_blocks_override": 10,  # of 32 tokens; one is vLLM's own
}
LONG = Case("long-text")
CROWD = [
    LONG,
    Case(None),
    Case("both", 2),
    Case("everything"),
    Case("long-text", 0),
    Case("vision"),
    Case("head", 0),
    Case("prefix", 0),
]
CROWD_TOKENS = 36


@dataclass(frozen=True)
class Crowd:
    """What became of `CROWD`, asked at once."""

    outputs: list[Any]
    steps: list[dict[str, Chunk]]
    chunks: list[list[Chunk]]
    marked: list[int]
    preemptions: int


@pytest.fixture(scope="module")
def served(tiny_model: Path, oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with start_here(tiny_model, tmp_path_factory.mktemp("vllm-cache"), **OPTIONS) as llm:
        served = Served(OfflineTasks(llm, tiny_model), oracle, tiny_model, bundles={}, handles={})
        load_all(served, tmp_path_factory.mktemp("tasks"))
        yield served
        served.tasks.llm = None


@pytest.fixture(scope="module")
def recorder(served: Served) -> Recorder:
    return Recorder(served.tasks.llm)


@pytest.fixture(scope="module")
def crowd(served: Served, recorder: Recorder) -> Crowd:
    recorder.forget()
    before = recorder.count_preemptions()
    outputs = served.ask(CROWD, tokens=CROWD_TOKENS)
    chunks = recorder.chunks()
    return Crowd(
        outputs,
        list(recorder.steps),
        [chunks[output.request_id] for output in outputs],
        list(recorder.marked),
        recorder.count_preemptions() - before,
    )


def prompt_of(case: Case) -> dict[str, Any]:
    """What `LLM` is given."""
    pictures = {"multi_modal_data": {"image": PICTURES[: case.pictures]}} if case.pictures else {}
    return {"prompt": case.prompt, **pictures}


def greedy(**options: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**{"temperature": 0, "max_tokens": 8, "ignore_eos": True, **options})


def rows_of(served: Served, case: Case) -> int:
    """Its learned tokens in the language model's prompt."""
    return served.handles[case.task].text_length if case.task else 0


def test_the_runner_is_the_one_that_was_asked_for(recorder: Recorder) -> None:
    """V1 on a CPU, unless `test_model_runner_v2` runs this module."""
    assert recorder.is_runner_v2 == (os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1")


def test_an_lm_head_is_there_or_refused(served: Served, recorder: Recorder, tmp_path: Path) -> None:
    """Without it `head` would be a task like `text` below."""
    if not recorder.is_runner_v2:
        assert served.handles["head"].has_lm_head
        return
    bundle = make_task(tmp_path, "refused", served.model, seed=1, text=1, lm_head=True)
    with pytest.raises(BundleError, match=r"lm_head: expected false, came true; it needs .* runner V1"):
        served.tasks.load(bundle)


def test_every_case_at_once(served: Served) -> None:
    for case, output in zip(ALL_CASES, served.ask(ALL_CASES), strict=True):
        assert_same(output, served.expect(case), case)


def test_crowded_out_and_computed_again_the_answers_are_the_same(served: Served, crowd: Crowd) -> None:
    assert crowd.preemptions > 0
    again = [case for case, chunks in zip(CROWD, crowd.chunks, strict=True) if is_computed_again(chunks)]
    assert sum(rows_of(served, case) > 0 for case in again) >= 2
    for case, output in zip(CROWD, crowd.outputs, strict=True):
        assert_same(output, served.expect(case, tokens=CROWD_TOKENS), case)
        assert output.num_cached_tokens == 0


def is_computed_again(chunks: list[Chunk]) -> bool:
    return [chunk.start for chunk in chunks].count(0) > 1


def test_chunks_end_inside_the_prompt_rows(served: Served, crowd: Crowd) -> None:
    """At odd places; the test above has looked at the answers."""
    for case, chunks in zip(CROWD, crowd.chunks, strict=True):
        inside = [chunk.end for chunk in chunks if 0 < chunk.end < rows_of(served, case)]
        assert bool(inside) or case.task != "long-text", case
        assert all(chunk.end - chunk.start <= CHUNK for chunk in chunks), case
    assert crowd.chunks[0][0] == Chunk(0, CHUNK)
    assert rows_of(served, LONG) > CHUNK


def test_each_step_marks_its_own_prompt_rows_and_no_others(served: Served, crowd: Crowd) -> None:
    lengths = {
        output.request_id: rows_of(served, case) for case, output in zip(CROWD, crowd.outputs, strict=True)
    }
    assert crowd.marked == expected_marks(crowd.steps, lengths)
    assert max(crowd.marked) > 0


def expected_marks(steps: list[dict[str, Chunk]], lengths: dict[str, int]) -> list[int]:
    """How many learned rows each step computed; `lengths`: of each request's learned prompt."""
    return [
        sum(chunk.count_within(lengths[name.rpartition("-")[0]]) for name, chunk in step.items())
        for step in steps
    ]


def test_a_request_dropped_between_two_chunks_leaves_nothing_behind(
    served: Served, recorder: Recorder
) -> None:
    """The second asks for the same task and shares the learned prompt with the first, which is dropped."""
    llm = served.tasks.llm
    cases = [LONG, Case("long-text", 0), Case(None), Case("both")]
    recorder.forget()
    queued = []
    for case in cases:
        with using_task(served.handles[case.task] if case.task else None):
            queued += llm.enqueue([prompt_of(case)], greedy(logprobs=384), use_tqdm=False)
    names = [name.rpartition("-")[0] for name in queued]
    llm.llm_engine.step()
    (first,) = recorder.chunks()[names[0]]
    assert 0 < first.end < rows_of(served, LONG)
    llm.llm_engine.abort_request(queued[:1], internal=True)
    finished = {output.request_id: output for output in llm.wait_for_completion(use_tqdm=False)}
    assert recorder.chunks()[names[0]] == [first]
    assert set(finished) == set(names[1:])
    for name, case in list(zip(names, cases, strict=True))[1:]:
        assert_same(finished[name], served.expect(case), case)
    lengths = {name: rows_of(served, case) for name, case in zip(names, cases, strict=True)}
    assert recorder.marked == expected_marks(recorder.steps, lengths)
    assert_same(served.ask([LONG])[0], served.expect(LONG), "asked again")


def test_what_was_queued_before_a_refused_request_is_not_answered_later(served: Served) -> None:
    """The next call would be given its answer for its own."""
    with pytest.raises(PictureRequiredError):
        served.ask([LONG, Case("vision", 0)])
    (output,) = served.ask([Case("text")])
    assert_same(output, served.expect(Case("text")))


def test_n_answers_of_one_request(served: Served, recorder: Recorder) -> None:
    """Each is a request of its own to the scheduler.

    On runner V2 each has the seed `seed + i`. On runner V1 the most likely token alone is drawn: there, on a
    CPU, a seed together with a split prompt ends vLLM's engine, task or none (it winds the seed's generator
    back, and torch's CPU generator cannot be).
    """
    recorder.forget()
    cases = [LONG, Case("everything"), Case(None), Case("head")]
    drawn = [{"seed": 11 + index} if recorder.is_runner_v2 else {"top_k": 1} for index in range(3)]
    outputs = draw(served, cases, n=3, **drawn[0])
    assert len({name for step in recorder.steps for name in step}) == 3 * len(cases)
    alone = [draw(served, cases, **options) for options in drawn]
    for index, case in enumerate(cases):
        answers = [list(one.token_ids) for one in outputs[index].outputs]
        assert answers == [list(one[index].outputs[0].token_ids) for one in alone], case
        if recorder.is_runner_v2:
            assert len({tuple(answer) for answer in answers}) == 3, case
        else:
            assert answers == [served.expect(case).tokens] * 3, case


def draw(served: Served, cases: list[Case], **options: Any) -> list[Any]:
    """Sampled answers."""
    handles = [served.handles[case.task] if case.task else None for case in cases]
    sampled = greedy(temperature=1.0, **options)
    return served.tasks.generate([prompt_of(case) for case in cases], handles, sampled)


@pytest.mark.parametrize(
    "case", [LONG, Case("everything"), Case("both", 0), Case("head"), Case(None)], ids=str
)
def test_beams(served: Served, case: Case) -> None:
    """The context variable holds while `LLM.beam_search` renders; each beam carries the item on."""
    from vllm.sampling_params import BeamSearchParams

    width, length = 2, 4
    with using_task(served.handles[case.task] if case.task else None):
        params = BeamSearchParams(beam_width=width, max_tokens=length, ignore_eos=True, length_penalty=0)
        (found,) = served.tasks.llm.beam_search([prompt_of(case)], params)
    (prompted,) = served.ask([case], tokens=1)
    bundle = served.bundles[case.task] if case.task else None
    pictures = PICTURES[: case.pictures]
    expected = search_beams(served.oracle, case.prompt, pictures, bundle, width=width, length=length)
    for beam, (tokens, score) in zip(found.sequences, expected, strict=True):
        assert beam.tokens[: -length or None] == prompted.prompt_token_ids
        assert beam.tokens[-length:] == tokens
        assert beam.cum_logprob == pytest.approx(score, abs=length * MAX_LOGPROB_ERROR)


def test_choices_under_a_task_are_the_oracles(served: Served) -> None:
    from vllm.sampling_params import StructuredOutputsParams

    choices = ["seven", "heron", "water", "nine", "duck"]
    cases = [Case(None), LONG, Case("everything"), Case("both", 0), Case("text"), Case("vision", 2)]
    cases.append(Case("head"))
    only = greedy(ignore_eos=False, structured_outputs=StructuredOutputsParams(choice=choices))
    handles = [served.handles[case.task] if case.task else None for case in cases]
    outputs = served.tasks.generate([prompt_of(case) for case in cases], handles, only)
    expected = [choose(served, case, choices) for case in cases]
    assert [output.outputs[0].text for output in outputs] == expected
    assert len(set(expected)) > 1


def choose(served: Served, case: Case, choices: list[str]) -> str:
    """Greedy over the tokens that begin what is left of a choice."""
    bundle = served.bundles[case.task] if case.task else None
    tokenizer = served.oracle.processor.tokenizer
    texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
    written: list[int] = []
    said = ""
    while said not in choices:
        left = [choice[len(said) :] for choice in choices if choice.startswith(said)]
        allowed = [
            token for token, text in texts.items() if text and any(one.startswith(text) for one in left)
        ]
        logprobs = served.oracle.logprobs(case.prompt, PICTURES[: case.pictures], bundle, written)[-1]
        written.append(max(allowed, key=lambda token: float(logprobs[token])))
        said += texts[written[-1]]
    return said


@pytest.mark.parametrize("case", [LONG, Case("both", 2), Case("text", 0), Case(None)], ids=str)
def test_logprobs_of_prompt_and_answer(served: Served, case: Case) -> None:
    """The prompt a user gets back begins with a placeholder id for each learned token. A placeholder's own
    logprob says nothing, as a picture's does not; each ordinary token's is that of the prompted model. In the
    same steps runs a request of a task with an lm_head of its own, which has no prompt logprobs."""
    handle = served.handles[case.task] if case.task else None
    bundle = served.bundles[case.task] if case.task else None
    asked = greedy(max_tokens=3, logprobs=5, prompt_logprobs=2)
    beside = Case("head", 0)
    output, other = served.tasks.generate(
        [prompt_of(case), prompt_of(beside)],
        [handle, served.handles["head"]],
        [asked, greedy(logprobs=VOCABULARY)],
    )
    assert_same(other, served.expect(beside))
    answer = list(output.outputs[0].token_ids)
    expected = served.oracle.logprobs(case.prompt, PICTURES[: case.pictures], bundle, answer)
    ids = [*output.prompt_token_ids, *answer]
    rows = rows_of(served, case)
    assert len(set(ids[:rows])) <= 1
    assert len(expected) == len(ids)
    end = len(output.prompt_token_ids)
    ordinary = [at for at in range(max(rows, 1), end) if ids[at] != served.oracle.config.image_token_id]
    assert len(ordinary) > 30
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == end
    came = [output.prompt_logprobs[at] for at in ordinary]
    came += list(output.outputs[0].logprobs)
    for at, logprobs in zip([*ordinary, *range(end, len(ids))], came, strict=True):
        told = expected[at - 1]
        assert logprobs[ids[at]].logprob == pytest.approx(float(told[ids[at]]), abs=MAX_LOGPROB_ERROR)
        best = max(logprobs.values(), key=lambda one: one.logprob).logprob
        assert best == pytest.approx(float(told.max()), abs=MAX_LOGPROB_ERROR)
