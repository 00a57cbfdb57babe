"""Adapters that PEFT saved, imported and served: the greedy tokens of PEFT's own `generate`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from peft import PeftModel

from tests.engine.peft_oracle import ADAPTERS, LlavaOracle, PeftServed, serve_adapters
from tests.engine.serving import Case

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

CASES = [Case(task, pictures) for task in (None, *ADAPTERS) for pictures in (0, 1)]


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeftServed]:
    with serve_adapters(tmp_path_factory.mktemp("peft"), LlavaOracle(tiny_model), CASES) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_tokens_of_pefts_own_generate(served: PeftServed, case: Case) -> None:
    served.assert_alone(case)


def test_all_kinds_in_one_batch(served: PeftServed) -> None:
    served.assert_mixed()


def test_what_peft_loads_again_answers_alike(served: PeftServed) -> None:
    """The saved file is the adapter, encoder folded away: the oracle above had the encoder itself."""
    case = Case("prefix-tuning-projected", 1)
    source, _ = served.adapters["prefix-tuning-projected"]
    loaded = PeftModel.from_pretrained(served.oracle.load(), str(source)).eval()
    assert served.oracle.generate(loaded, case) == served.expected[case]
