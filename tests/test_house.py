"""The rules of the house, held against the files: who imports whom, size, docstrings, the README's map."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from passepartout import TASK_COMMANDS, VERBS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("prompts", "server", "training")
MAX_LINES = 400
# Fewer than these and the discovery below is broken, not the house small.
LEAST_MODULES = {"prompts": 14, "server": 35, "training": 30}
LEAST_TEST_FILES = 50

# package -> top-level names that nothing in it may import, anywhere in a file
FORBIDDEN = {
    "prompts": {"vllm", "transformers", "fastapi", "starlette", "server", "training", "benchmarks"},
    "server": {"training", "benchmarks"},
    "training": {"server", "benchmarks"},
}


def files(pattern: str = "*") -> list[str]:
    """Paths git knows or would add, from the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


def modules_of(package: str) -> list[str]:
    return [name for name in files("*.py") if name.startswith(f"{package}/")]


def parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name)


def imported_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Top-level names imported anywhere in a file, each with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], node.lineno


PYTHON_FILES = files("*.py")


@pytest.mark.parametrize("package", PACKAGES)
def test_discovery_finds_the_package(package: str) -> None:
    assert len(modules_of(package)) >= LEAST_MODULES[package]


def test_discovery_finds_the_tests_and_each_file_of_them_holds_one() -> None:
    names = [name for name in files("tests/*.py") if Path(name).name.startswith("test_")]
    assert len(names) >= LEAST_TEST_FILES
    functions = {
        name: [
            node.name
            for node in ast.walk(parse(name))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        ]
        for name in names
    }
    assert [name for name, found in functions.items() if not found] == []


def test_tests_mirror_the_folders() -> None:
    folders = {Path(name).parts[1] for name in files("tests/*.py") if len(Path(name).parts) > 2}
    assert folders <= {*PACKAGES, "engine", "deploy", "benchmarks", "examples"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_forbidden_import(package: str) -> None:
    found = [
        f"{name}:{line} imports {imported}"
        for name in modules_of(package)
        for imported, line in imported_names(parse(name))
        if imported in FORBIDDEN[package]
    ]
    assert found == []


def test_prompts_runs_without_the_heavy_packages() -> None:
    """What the imports say, proved by importing every module of `prompts` in a fresh interpreter."""
    names = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in modules_of("prompts")
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted({FORBIDDEN['prompts']!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", PYTHON_FILES)
def test_a_file_is_short_and_says_what_it_is(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES
    tree = parse(name)
    assert not tree.body or ast.get_docstring(tree), "the module has no docstring"


def entry_points() -> dict[str, str]:
    """Every `module:name` the distribution or the command promises, by where it is promised."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = {f"verb {verb}": target for verb, (target, _) in VERBS.items()}
    targets |= {f"task {name}": target for name, (target, _) in TASK_COMMANDS.items()}
    targets |= {f"script {name}": target for name, target in project["scripts"].items()}
    for group, entries in project["entry-points"].items():
        targets |= {f"{group} {name}": target for name, target in entries.items()}
    return targets


@pytest.mark.parametrize(("promise", "target"), entry_points().items())
def test_every_entry_point_leads_somewhere(promise: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    path = ROOT / (module.replace(".", "/") + ".py")
    assert path.is_file(), f"{promise}: {path.name} is missing"
    defined = {
        node.name
        for node in parse(str(path.relative_to(ROOT))).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert attribute in defined, f"{promise}: {module} defines no {attribute}"


def readme_tree(readme: str) -> list[str]:
    """Paths of the README's map, folders with a slash at the end.

    The map is the first fenced block with a line that begins with `server/`. A line is an indent, one or
    more names with one space between, then two spaces or more and a clause; a line without a clause is names
    alone. What is in a folder is indented deeper than it. A line that begins with `…` or `#` is a remark.
    """
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    block = next((text for text in blocks if re.search(r"^[│├└─ ]*server/", text, flags=re.MULTILINE)), "")
    paths: list[str] = []
    folders: list[tuple[int, str]] = []
    for line in block.splitlines():
        plain = re.sub(r"[│├└─]", " ", line)
        indent = len(plain) - len(plain.lstrip())
        names = re.split(r"\s{2,}", plain.strip())[0].split(" ")
        if not plain.strip() or names[0][0] in "…#":
            continue
        folders = [(depth, name) for depth, name in folders if depth < indent]
        parent = folders[-1][1] if folders else ""
        paths += [parent + name for name in names]
        if names[-1].endswith("/"):
            folders.append((indent, parent + names[-1]))
    return paths


def test_the_map_is_read_as_its_rules_say() -> None:
    readme = (
        "# x\n```sh\nls\n```\n```\nserver/          FastAPI\n"
        "├── engine/      inside vLLM\n│   ├── bank.py  rows\n"
        "└── cli.py app.py   two\nprompts/  the bundle\n  store.py\nMakefile Dockerfile   root\n```\n"
    )
    assert readme_tree(readme) == [
        "server/",
        "server/engine/",
        "server/engine/bank.py",
        "server/cli.py",
        "server/app.py",
        "prompts/",
        "prompts/store.py",
        "Makefile",
        "Dockerfile",
    ]


def test_the_readmes_map_is_whole_and_true() -> None:
    paths = readme_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    known = files()
    stale = [path for path in paths if not any(name == path or name.startswith(path) for name in known)]
    expected = [
        name for package in PACKAGES for name in modules_of(package) if Path(name).name != "__init__.py"
    ]
    missing = [name for name in expected if name not in paths]
    assert (stale, missing) == ([], []), "stale: in the map, not in git; missing: in git, not in the map"
