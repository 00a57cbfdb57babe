"""Broken records: counted, named and left out, unless they are more than a set share.

A record is a line, a question or a conversation, with the name of its picture. What is wrong with one is
found when the data is opened, and the source without it says so (`broken_records`). Pictures are decoded when
they are needed: of those `training.ledger` keeps count, in the same share.
"""

from prompts.errors import ConfigError
from prompts.faults import fault
from training.data.example import ExampleSource, broken_records
from training.data.files import FAULTS_GATHERED

__all__ = ["broken_fault", "count_records", "refuse_broken"]


def count_records(source: ExampleSource) -> int:
    """Records of a source, those included that were left out as broken."""
    count: int = getattr(source, "records", len(source) + len(broken_records(source)))
    return count


def refuse_broken(source: ExampleSource, max_share: float) -> None:
    """Looks whether more than `max_share` of a source's records were left out; 0: none may.

    Raises:
        ConfigError: there are; it names the first of them.
    """
    faults, records = broken_records(source), count_records(source)
    if len(faults) <= max_share * records:
        return
    named = list(dict.fromkeys(faults))[:FAULTS_GATHERED]
    summary = [broken_fault("records", len(faults), of=records, max_share=max_share)] if max_share else []
    raise ConfigError("data", summary + named)


def broken_fault(what: str, came: int, *, of: int, max_share: float) -> str:
    """How it reads that too many are broken."""
    expected = f"at most {100 * max_share:g} % broken {what} (max_broken_share)"
    return fault("data", expected=expected, came=f"{came} of {of}", cure="mend them, or allow more")
