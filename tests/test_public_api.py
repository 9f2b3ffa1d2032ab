"""What `from umldisk.cow import ...` gives, whatever was imported before it."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import umldisk.cow


def test_no_submodule_hides_a_public_name() -> None:
    for found in pkgutil.iter_modules(umldisk.cow.__path__):
        importlib.import_module(f"umldisk.cow.{found.name}")
    for name in umldisk.cow.__all__:
        assert not isinstance(getattr(umldisk.cow, name), ModuleType), name


@pytest.mark.parametrize("name", umldisk.cow.__all__)
def test_a_public_name_comes_from_its_home(name: str) -> None:
    assert getattr(umldisk.cow, name).__module__.startswith("umldisk.cow.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'mooo'"):
        umldisk.cow.mooo  # noqa: B018
