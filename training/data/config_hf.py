"""What a config says of a Hugging Face data set."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from training.data.entry import Entry

__all__ = ["HfData"]


class HfData(Entry):
    """A data set of Hugging Face `datasets` on this disk (see training/data/hf.py).

    A row is a picture with a question and an answer, or with a conversation in LLaVA's form. An answer column
    of classes gives their names, which are the choices.
    """

    slot: ClassVar[str] = "{question}"
    kind: Literal["hf"]
    path: Path = Field(
        description="folder of save_to_disk, or a .parquet, .arrow, .json or .jsonl file, or a folder of them"
    )
    split: str | None = Field(
        None, min_length=1, description="of the folder; of files: what their names begin with"
    )
    images: Path | None = Field(
        None, description="folder that names in the image column start from (default: it holds the pictures)"
    )
    image_column: str | None = Field("image", description="null: text alone")
    question: str = Field("{question}", description="what is asked; {question} is the question column's text")
    question_column: str = "question"
    answer_column: str = "answer"
    conversations_column: str | None = Field(
        None, description="a column [{from: human|gpt, value}, …], in place of question and answer"
    )
    turns: Literal["first", "each"] = Field("first", description="of a conversation, as in llava_json")
    streaming: bool = Field(
        False, description="read it as training goes on, never whole; training data alone"
    )
    shuffle_buffer: int = Field(
        1000, ge=1, description="streaming: rows in memory, of which the next is drawn"
    )
    limit: int | None = Field(None, ge=1, description="use only the first so many examples (streaming: rows)")
    cache: Path | None = Field(
        None, description="folder of what is converted from files, not streaming (default: HF_DATASETS_CACHE)"
    )

    @model_validator(mode="after")
    def _asks_in_one_way(self) -> "HfData":
        other = sorted({"question", "question_column", "answer_column"} & self.model_fields_set)
        if self.conversations_column is not None and other:
            raise ValueError(
                f"expected conversations_column or the columns of questions and answers, came {other[0]} "
                "too; leave one out"
            )
        return self
