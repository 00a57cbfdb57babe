"""The error tree: drawn as it is, stable codes, errors that survive a process boundary."""

import pickle
from pathlib import Path

import pytest

from prompts import errors
from prompts.errors import InputError, InternalError, PassepartoutError

EXAMPLES = [
    errors.BundleError(Path("a"), ["x: expected 1, came 2; mend it", "y"]),
    errors.ConfigError("train.yaml", ["lr: expected > 0, came -1; correct the value"]),
    errors.StoreError("tasks"),
    errors.PictureError("picture"),
    errors.PictureRequiredError("lines"),
    errors.NoFrameError("count"),
    errors.TaskNotFoundError("x", ["b", "a"]),
    errors.TaskConflictError({"body field task": "a", "header X-Task": "b"}),
    errors.BaseModelError("m"),
    errors.BaseModelMismatchError("count", field="fingerprint", expected="sha256:1", came="sha256:2"),
    errors.UnsupportedError("pipeline parallel"),
    errors.VersionNotFoundError("no version 3"),
    errors.VersionRefusedError("canary"),
    errors.PreconditionError("changed"),
    errors.ReadOnlyStoreError("read-only"),
    errors.SourceError("away"),
    errors.InvalidKeyError("no key"),
    errors.ForbiddenError("not yours", field="task"),
    errors.RouteNotFoundError("nowhere"),
    errors.RateLimitError("later", 1.5),
    errors.TooLargeError("too much"),
    errors.TooSlowError("too slow"),
    errors.OverloadedError("later", 2.5),
    errors.DrainingError("elsewhere", 1.0),
    errors.ModelNotFoundError("no such model"),
    errors.CapacityError("full"),
    errors.EngineError("dead"),
    errors.StaleBundleError("changed"),
    errors.NotStagedError("gone"),
    errors.RecordError("record"),
]


def tree() -> list[type[PassepartoutError]]:
    return [
        found
        for name in errors.__all__
        if issubclass(found := getattr(errors, name), PassepartoutError)
        and found not in (PassepartoutError, InputError, InternalError)
    ]


def test_every_kind_has_an_example_here_and_a_line_in_the_drawing() -> None:
    assert {type(one) for one in EXAMPLES} == set(tree())
    for kind in tree():
        assert f"── {kind.__name__} " in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", tree())
def test_a_kind_is_the_callers_fault_or_ours_and_has_its_own_code(kind: type[PassepartoutError]) -> None:
    assert issubclass(kind, InputError) != issubclass(kind, InternalError)
    assert [other for other in tree() if other.code == kind.code] == [kind]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_crosses_a_process(error: PassepartoutError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_the_unknown_task_is_told_which_there_are() -> None:
    assert str(errors.TaskNotFoundError("x", ["b", "a"])).startswith(
        "task: expected one of: a, b, came 'x'; "
    )
    assert "none (no task is loaded)" in str(errors.TaskNotFoundError("x", []))
    assert "none that this key may ask" in str(errors.TaskNotFoundError("x", [], is_limited=True))
    many = str(errors.TaskNotFoundError("x" * 10_000, [f"t{i:03}" for i in range(500)]))
    assert "and 480 more" in many
    assert len(many) < 500


def test_a_conflict_names_both_places() -> None:
    assert "'a' in body field task and 'b' in header X-Task" in str(EXAMPLES[7])
