"""Adapters that PEFT saved, imported and served: the greedy tokens of PEFT's own `generate`.

On LLaVA, pictures and all, and on the base that adapters are usually trained in, a plain language model.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from peft import PeftModel

from tests.engine.peft_oracle import ADAPTERS, LlavaOracle, PeftServed, TextOracle, serve_adapters
from tests.engine.serving import Case
from tests.engine.tiny_text import make_tiny_text

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

_ON_TEXT = ("prompt-tuning", "p-tuning-mlp", "prefix-tuning", "prefix-tuning-long")
CASES = {
    "llava": [Case(task, pictures) for task in (None, *ADAPTERS) for pictures in (0, 1)],
    "qwen2": [Case(task, 0) for task in (None, *_ON_TEXT)],
}


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PeftServed]:
    """vLLM on the base model that the test names."""
    base, folder = request.param, tmp_path_factory.mktemp("peft")
    oracle = LlavaOracle(tiny_model)
    if base != "llava":
        oracle = TextOracle(make_tiny_text(folder / "model", base))
    with serve_adapters(folder, oracle, CASES[base]) as running:
        yield running


@pytest.mark.parametrize(
    ("served", "case"),
    [(base, case) for base, cases in CASES.items() for case in cases],
    ids=str,
    indirect=["served"],
)
def test_the_tokens_of_pefts_own_generate(served: PeftServed, case: Case) -> None:
    served.assert_alone(case)


@pytest.mark.parametrize("served", CASES, indirect=True)
def test_all_kinds_in_one_batch(served: PeftServed) -> None:
    served.assert_mixed()


@pytest.mark.parametrize("served", ["llava"], indirect=True)
def test_what_peft_loads_again_answers_alike(served: PeftServed) -> None:
    """The saved file is the adapter, encoder folded away: the oracle above had the encoder itself."""
    case = Case("prefix-tuning-projected", 1)
    source, _ = served.adapters["prefix-tuning-projected"]
    loaded = PeftModel.from_pretrained(served.oracle.load(), str(source)).eval()
    assert served.oracle.generate(loaded, case) == served.expected[case]
