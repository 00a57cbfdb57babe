"""How well a model answers, without and with a bundle, on transformers.

`ranking`: each candidate is scored by its mean log-likelihood per token after the question; the best one is
the answer (the paper's measure for classes). `structured`: greedy text held to the choices (the task's, else
the example's), which is what a server answers for a task with choices. `generation`: the greedy answer is
compared after normalisation (lower case, punctuation, articles, number words).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from prompts.bundle import Bundle
from prompts.errors import ConfigError, PictureRequiredError
from prompts.faults import fault
from prompts.frame import frame_picture
from prompts.manifest import Usage
from training.backbone import NO_PROMPTS, Backbone, DeepPrompts, Features
from training.config import How
from training.data import Example, ExampleSource
from training.decoding import generate, score_choices
from training.statistics import Score, score

__all__ = [
    "Graded",
    "How",
    "choices_of",
    "evaluate",
    "grade",
    "normalise_answer",
    "picture_features",
    "score_of",
]

_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class Graded:
    """One example's answer beside the one wanted."""

    question: str
    wanted: str
    said: str
    right: bool


def evaluate(
    backbone: Backbone,
    source: ExampleSource,
    *,
    bundle: Bundle | None = None,
    usage: Usage | None = None,
    how: How = "ranking",
    batch: int = 16,
    max_new_tokens: int = 16,
    choices: tuple[str, ...] | None = None,
) -> Iterator[Graded]:
    """Answers every example in order, `batch` at a time; yields them as they come.

    `usage`: how the model without a bundle is asked (default: as the examples stand); a bundle has its own.
    `choices`: for `structured` the answers there are (default: the bundle's, else each example's).

    Raises:
        ConfigError: `ranking` or `structured`, and an example without choices.
        PictureRequiredError: an example without a picture, and a bundle that only has a frame.
        UnsupportedError: the bundle has a prefix of keys and values.
    """
    usage = bundle.manifest.usage if bundle else usage or Usage()
    deep = DeepPrompts.of_bundle(bundle, backbone.device) if bundle else NO_PROMPTS
    for start in range(0, len(source), batch):
        examples = [source[index] for index in range(start, min(start + batch, len(source)))]
        features = picture_features(backbone, examples, bundle, deep)
        questions = [backbone.encode_example(example, usage).prompt for example in examples]
        if how == "ranking":
            said = _ranked(backbone, examples, questions, features, deep, usage)
        else:
            masks, longest = None, max_new_tokens
            if how == "structured":
                groups = [choices or usage.choices or choices_of(example) for example in examples]
                masks = [backbone.choice_mask(group) for group in groups]
                longest = 1 + max(len(choice.encode()) for group in groups for choice in group)
            said = generate(
                backbone, questions, features=features, deep=deep, max_new_tokens=longest, masks=masks
            )
        yield from (grade(example, one) for example, one in zip(examples, said, strict=True))


def grade(example: Example, said: str) -> Graded:
    """An example's answer beside the one wanted: right where both are the same after normalisation."""
    right = normalise_answer(said) == normalise_answer(example.answer)
    return Graded(example.question, example.answer, said, right)


def choices_of(example: Example) -> tuple[str, ...]:
    """The answers that an example is decided among.

    Raises:
        ConfigError: it has none.
    """
    if not example.choices:
        expected, cure = "choices to decide between", "use how: generation, or data with choices"
        raise ConfigError("evaluate", [fault("how", expected=expected, came="an example without", cure=cure)])
    return example.choices


def score_of(graded: Sequence[Graded]) -> Score:
    """Accuracy with its interval."""
    return score([one.right for one in graded])


def normalise_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, number words as digits, single spaces."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return " ".join(_NUMBER_WORDS.get(word, word) for word in words if word not in _ARTICLES)


def picture_features(
    backbone: Backbone, examples: Sequence[Example], bundle: Bundle | None, deep: DeepPrompts
) -> Features | None:
    """Image features as the server makes them: of framed pictures if the bundle has a frame.

    None where no example has a picture.

    Raises:
        PictureRequiredError: an example without a picture, and a bundle that only has a frame.
    """
    pictures = [example.picture for example in examples if example.picture is not None]
    frame = bundle.manifest.frame if bundle else None
    if bundle and frame and bundle.manifest.base_model is None and len(pictures) < len(examples):
        raise PictureRequiredError(bundle.name)
    if not pictures:
        return None
    with torch.inference_mode():
        if bundle is None or frame is None or bundle.frame_delta is None:
            return backbone.image_features(backbone.process(pictures), deep)
        framed = torch.stack([frame_picture(picture, frame, bundle.frame_delta) for picture in pictures])
        return backbone.image_features(backbone.process_canvas(framed), deep)


def _ranked(
    backbone: Backbone,
    examples: Sequence[Example],
    questions: Sequence[Sequence[int]],
    features: Features | None,
    deep: DeepPrompts,
    usage: Usage,
) -> list[str]:
    groups = [choices_of(example) for example in examples]
    ids = [
        [backbone.encode_answer(example, choice, usage) for choice in group]
        for example, group in zip(examples, groups, strict=True)
    ]
    with torch.inference_mode():
        scores = score_choices(backbone, questions, ids, features=features, deep=deep)
    return [group[int(row.argmax())] for group, row in zip(groups, scores, strict=True)]
