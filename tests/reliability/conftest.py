"""Where these tests put their files: in memory, because there are very many of them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.yard import Yard


@pytest.fixture
def memory() -> Iterator[Path]:
    """Return an empty directory in memory."""
    with tempfile.TemporaryDirectory(prefix="umldisk-test-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def yard(memory: Path, bare_environment: dict[str, str]) -> Iterator[Yard]:
    """Return a place for builds, in memory."""
    (memory / "yard").mkdir()
    yard = Yard(memory / "yard", bare_environment)
    yield yard
    yard.kill_left_over()


@pytest.fixture
def base(memory: Path) -> Path:
    """Return where a test puts its base, outside the yard."""
    return memory / "base"
