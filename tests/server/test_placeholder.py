"""Which token stands for a learned one."""

from types import SimpleNamespace
from typing import Any

import pytest

from server.engine.placeholder import choose_placeholder


def tokenizer(**ids: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"eos_token_id": 2, "all_special_ids": []} | ids)


@pytest.mark.parametrize(
    ("ids", "config", "generation", "chosen"),
    [
        ({"bos_token_id": 1}, {}, {}, 1),
        ({"bos_token_id": 2, "pad_token_id": 7}, {}, {}, 7),
        ({"bos_token_id": 1}, {"eos_token_id": [1, 2]}, {}, 0),
        ({"bos_token_id": None, "pad_token_id": 5}, {}, {"eos_token_id": [5]}, 0),
        # as Qwen2-VL-Instruct's: no bos, the pad token ends answers, special tokens among which pictures' are
        (
            {"pad_token_id": 5, "all_special_ids": [2, 5, 11, 12, 13]},
            {"image_token_id": 11, "video_token_id": 12, "bos_token_id": 5},
            {"eos_token_id": [2, 5]},
            13,
        ),
        ({"all_special_ids": [2]}, {"image_token_index": 0, "vision_start_token_id": None}, {}, 1),
    ],
)
def test_it_is_a_token_that_means_nothing(
    ids: dict[str, Any], config: dict[str, Any], generation: dict[str, Any], chosen: int
) -> None:
    assert choose_placeholder(tokenizer(**ids), [SimpleNamespace(**config)], generation) == chosen
