"""`in-context`: a task as a learned prompt, against the same task as eight examples in every request."""

import argparse
from functools import partial
from pathlib import Path

from benchmarks.engines import prompted, running
from benchmarks.harness import alternate
from benchmarks.jobs import Batch, Report, Request
from benchmarks.materials import find_model
from benchmarks.outcome import Figure, Outcome
from benchmarks.question import Question, Say
from training.data import Example
from training.demo.lineup import examples_folder
from training.pico.tasks import PicoSource
from training.statistics import Score, score

__all__ = ["QUESTION"]

_TEACHES = """\
Three shipped tasks of pico-llava (category, count, lines) and held-out pictures, the same ones on every side,
every side held to the task's choices. In one engine: requests that name the task; requests that show solved
examples first (a picture, the question and the answer each), the same for all requests of a task, so that
vLLM's prefix cache serves them; and requests that show examples of their own, as retrieval would choose them,
which no cache knows.
Figures: requests per second of ours over those of either; and accuracy, over all rounds, with 95 % intervals.
"""
_TASKS = ("category", "count", "lines")
_SEED = 23
_LONGEST = 12


def _run(options: argparse.Namespace, say: Say) -> Outcome:
    model = find_model(options.model, say)
    asked = _Questions(model, options)
    bundles = [examples_folder() / "tasks" / task for task in _TASKS]
    say("starting the engine")
    spec = prompted(model, bundles=bundles, dtype=options.dtype, max_model_len=4096)
    with running(spec) as engine:
        right: dict[str, list[bool]] = {side: [] for side in asked.sides}

        def rate(side: str, number: int) -> float:
            examples, requests = asked.sides[side](number)
            report: Report = engine.ask(Batch(requests=requests, tokens=_LONGEST))
            if number > 0:
                pairs = zip(report.texts, examples, strict=True)
                right[side] += [text == example.answer for text, example in pairs]
            return report.requests_per_second

        measures = {side: partial(rate, side) for side in asked.sides}
        rounds = alternate(measures, options.rounds, say=say)
    scores = {side: score(answers) for side, answers in right.items()}
    figures = [
        Figure.of_ratio(f"requests/s against {side}", rounds.ratio("ours", side), 4.0)
        for side in asked.sides
        if side != "ours"
    ]
    figures.append(_accuracy(scores))
    by_task = {
        f"{side}, {task}": sum(answers[place :: len(_TASKS)]) / len(answers[place :: len(_TASKS)])
        for side, answers in right.items()
        for place, task in enumerate(_TASKS)
    }
    return QUESTION.found(options, figures, {**rounds.sides, "accuracy": by_task})


def _accuracy(scores: dict[str, Score]) -> Figure:
    others = {side: one for side, one in scores.items() if side != "ours"}
    shown = f"{scores['ours']} against {' and '.join(str(one) for one in others.values())}"
    lead = scores["ours"].accuracy - max(one.accuracy for one in others.values())
    return Figure(label="accuracy, lead in shares of one", shown=shown, value=lead, at_least=0.0)


class _Questions:
    """Draws the requests of a round for each side; the tasks take turns in a batch."""

    def __init__(self, model: Path, options: argparse.Namespace) -> None:
        from transformers import AutoProcessor

        self._processor = AutoProcessor.from_pretrained(model)
        self._shots, self._count = options.examples, options.per_task * len(_TASKS)
        self.sides = {"ours": self._plain, "fixed examples": self._fixed, "examples of its own": self._own}

    def _plain(self, number: int) -> tuple[list[Example], tuple[Request, ...]]:
        held_out = self._held_out(number)
        requests = [self._request([], one, task=place) for place, one in self._in_turn(held_out)]
        return held_out, tuple(requests)

    def _fixed(self, number: int) -> tuple[list[Example], tuple[Request, ...]]:
        held_out = self._held_out(number)
        shown = [self._examples(task, 0) for task in _TASKS]
        return held_out, tuple(self._request(shown[place], one) for place, one in self._in_turn(held_out))

    def _own(self, number: int) -> tuple[list[Example], tuple[Request, ...]]:
        held_out = self._held_out(number)
        first = 1 + (number + 1000) * self._count
        requests = [
            self._request(self._examples(_TASKS[place], first + index), one)
            for index, (place, one) in enumerate(self._in_turn(held_out))
        ]
        return held_out, tuple(requests)

    def _in_turn(self, held_out: list[Example]) -> list[tuple[int, Example]]:
        return [(index % len(_TASKS), example) for index, example in enumerate(held_out)]

    def _held_out(self, number: int) -> list[Example]:
        """Test pictures of this round, never of another."""
        size = (number + 1000) * self._count + self._count
        first = size - self._count
        return [
            PicoSource(_TASKS[index % len(_TASKS)], "test", size, _SEED)[first + index]
            for index in range(self._count)
        ]

    def _examples(self, task: str, group: int) -> list[Example]:
        source = PicoSource(task, "train", (group + 1) * self._shots, _SEED)
        return [source[group * self._shots + index] for index in range(self._shots)]

    def _request(self, shown: list[Example], asked: Example, task: int | None = None) -> Request:
        """A chat: each example a turn of the user and the answer, then the question."""
        messages: list[dict[str, object]] = []
        for one in (*shown, asked):
            content = [{"type": "image"}, {"type": "text", "text": one.question}]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": one.answer}]
        rendered = self._processor.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True
        )
        pictures = tuple(one.picture for one in (*shown, asked) if one.picture is not None)
        return Request(prompt=rendered, pictures=pictures, task=task, choices=asked.choices or ())


QUESTION = Question(
    name="in-context",
    asks="a task as a learned prompt, against the same task as 8 in-context examples with pictures",
    teaches=_TEACHES,
    rounds=5,
    run=_run,
    options={
        "examples": (8, "in-context examples, each with a picture"),
        "per_task": (8, "requests of each task in a batch"),
    },
)
