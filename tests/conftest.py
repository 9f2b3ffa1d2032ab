"""Set-up of all tests: peers that are needed, Hypothesis, and children outside the coverage run."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.kit")

from tests.kit import peers  # noqa: E402  (after the rewriting of its asserts is set up)
from tests.kit.interruptions import interruptible  # noqa: E402

# In CI Hypothesis takes its own profile, which repeats the same examples every time.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
if not peers.in_ci():
    settings.load_profile("here")


# Who starts the tests in the background, or with nohup, makes them ignore signals, and so all their children, which
# shall not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give `real`, and `guest` where a kernel boots, to every test that says what it needs."""
    for item in items:
        needed = _needed_peers(item)
        if needed:
            item.add_marker(pytest.mark.real)
        if "linux" in needed:
            item.add_marker(pytest.mark.guest)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Carry out `needs`, before any fixture of the test is made."""
    peers.require(*_needed_peers(item))


def _needed_peers(item: pytest.Item) -> list[str]:
    return [peer for mark in item.iter_markers("needs") for peer in mark.args]


@pytest.fixture
def bare_environment() -> dict[str, str]:
    """Return an environment for children that must run without the coverage measurement.

    Measuring imports modules, opens files and takes time: whoever looks at a child's imports,
    system calls, memory or speed needs it without.
    """
    unwanted = ("COVERAGE_", "PYTEST_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


@pytest.fixture
def interrupting_signals() -> Iterator[None]:
    """Let SIGUSR1 and SIGALRM interrupt this process."""
    with interruptible():
        yield


@pytest.fixture
def uml_dir() -> Iterator[Path]:
    """Return a directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/tmp") as directory:
        yield Path(directory)
