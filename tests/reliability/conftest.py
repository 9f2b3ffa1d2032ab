"""Where these tests put their files: in memory, because there are very many of them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory() -> Iterator[Path]:
    """Return an empty directory in memory."""
    with tempfile.TemporaryDirectory(prefix="umldisk-test-", dir="/dev/shm") as name:
        yield Path(name)
