"""A catalog of its own for each test, and a keeper who records nights in it and in a store in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.histories import Keeper
from tests.kit.memory_store import MemoryStore
from umldisk.checkpoint.catalog import Catalog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    with Catalog.open(path, writable=True) as catalog:
        yield catalog


@pytest.fixture
def keeper(catalog: Catalog) -> Keeper:
    return Keeper(MemoryStore(), catalog)


@pytest.fixture
def memory(keeper: Keeper) -> MemoryStore:
    assert isinstance(keeper.store, MemoryStore)
    return keeper.store


@pytest.fixture
def four(keeper: Keeper) -> Keeper:
    for _night in range(4):
        keeper.take()
    return keeper
