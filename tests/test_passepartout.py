"""The command: verbs are found lazily, faults become one line and a status of 2."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import passepartout
from prompts.errors import PassepartoutError
from tests.prompts.sample import save_frame


@pytest.fixture
def verb_that(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | int]:
    """Registers the verb `try`, which raises or returns what the test puts in the list."""
    outcome: list[BaseException | int] = []

    def run(arguments: list[str]) -> int:
        if isinstance(outcome[0], int):
            return outcome[0] + len(arguments)
        raise outcome[0]

    monkeypatch.setattr(passepartout, "find_verb", lambda verb: run)
    return outcome


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert passepartout.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(passepartout.VERBS)


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert passepartout.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("passepartout-serve")


@pytest.mark.parametrize(("arguments", "said"), [([], "no verb given"), (["srve"], "unknown verb 'srve'")])
def test_a_wrong_verb_says_which_there_are(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert passepartout.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {said}\n")
    assert "evaluate" in message


def test_a_verb_gets_the_rest_of_the_line_and_gives_its_status(verb_that: list[BaseException | int]) -> None:
    verb_that.append(40)
    assert passepartout.main(["task", "a", "b"]) == 42


def test_a_fault_of_ours_is_one_line(
    verb_that: list[BaseException | int], capsys: pytest.CaptureFixture[str]
) -> None:
    verb_that.append(PassepartoutError("tasks/x: no bundle.json"))
    assert passepartout.main(["task"]) == 2
    assert capsys.readouterr().err == "error: tasks/x: no bundle.json\n"


def test_a_foreign_fault_passes(verb_that: list[BaseException | int]) -> None:
    verb_that.append(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        passepartout.main(["task"])


def test_ctrl_c_ends_quietly(verb_that: list[BaseException | int]) -> None:
    verb_that.append(KeyboardInterrupt())
    assert passepartout.main(["task"]) == 130


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys, passepartout\npassepartout.main(['--help'])\n"
        "assert not {'torch', 'vllm', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["canary", "b", "--model", "m"], "training.canary_command"),
        (["verify", "b", "--model=m"], "server.verify"),
        (["verify", "b"], None),
        (["show", "b", "--model", "m"], None),
        ([], None),
    ],
)
def test_a_task_command_that_needs_a_model_is_found_where_it_may_start_one(
    arguments: list[str], module: str | None
) -> None:
    found = passepartout.find_task_command(arguments)
    assert (found and found.__module__) == module


def test_the_help_of_task_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        passepartout.main(["task", "--help"])
    shown = capsys.readouterr().out
    assert all(f"{command} BUNDLE --model M" in shown for command in passepartout.TASK_COMMANDS)


def test_verify_finds_a_task_of_a_store_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_frame(tmp_path / "tasks" / "folder", "lines")
    asked = ["task", "verify", "lines", "--tasks", str(tmp_path / "tasks"), "--model", str(tmp_path)]
    assert passepartout.main(asked) == 2
    assert "lines: expected a canary, came a bundle without" in capsys.readouterr().err
    asked[2] = "folder"
    assert passepartout.main(asked) == 2
    assert "came folder; there are: lines" in capsys.readouterr().err
