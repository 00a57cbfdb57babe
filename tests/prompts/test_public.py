"""The public surface is written down: `__all__` of every module is what it defines, and is documented."""

import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import prompts

MODULES = sorted(path.stem for path in Path(prompts.__file__).parent.glob("[a-z]*.py"))


def test_the_modules_are_found() -> None:
    assert {"bundle", "cli", "deep", "errors", "fingerprint", "frame", "manifest", "picture", "store"} <= {
        *MODULES
    }


@pytest.mark.parametrize("name", MODULES)
def test_all_is_complete_and_documented(name: str) -> None:
    module = import_module(f"prompts.{name}")
    exported = set(module.__all__)
    assert {one for one in exported if not hasattr(module, one)} == set()
    defined = defined_in(module)
    assert defined <= exported
    assert {one for one in defined if not inspect.getdoc(getattr(module, one))} == set()


def defined_in(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }


def test_the_package_exports_what_its_modules_do() -> None:
    for name in prompts.__all__:
        value = getattr(prompts, name)
        assert name in import_module(value.__module__).__all__
