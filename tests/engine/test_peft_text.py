"""PEFT's adapters on the base they are usually trained in, a plain language model: Qwen2."""

from collections.abc import Iterator

import pytest

from tests.engine.peft_oracle import PeftServed, TextOracle, serve_adapters
from tests.engine.serving import Case
from tests.engine.tiny_text import make_tiny_text

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

CASES = [
    Case(task, 0) for task in (None, "prompt-tuning", "p-tuning-mlp", "prefix-tuning", "prefix-tuning-long")
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeftServed]:
    folder = tmp_path_factory.mktemp("peft-text")
    model = make_tiny_text(folder / "model", "qwen2")
    with serve_adapters(folder, TextOracle(model), CASES) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_tokens_of_pefts_own_generate(served: PeftServed, case: Case) -> None:
    served.assert_alone(case)


def test_all_kinds_in_one_batch(served: PeftServed) -> None:
    served.assert_mixed()
