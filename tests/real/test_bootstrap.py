"""mmdebstrap for real: what it makes, that it makes it once, and that nothing is left of it when it is stopped."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from tests.kit.bases import EPOCH, SUITE, real_debian, require_mirror
from tests.kit.peers import needs
from umldisk.build.bases.bootstrap import BootstrapBase
from umldisk.build.tree import FileType, plant
from umldisk.config.settings import Bootstrap, Init
from umldisk.errors import NoInputError

pytestmark = [needs("mmdebstrap", "dpkg-query", "root"), pytest.mark.slow]

_OBTAIN = f"""
import sys
from umldisk.build.bases.bootstrap import BootstrapBase
from umldisk.config.settings import Bootstrap, Init
BootstrapBase("debian", "{SUITE}", Bootstrap(), cache=sys.argv[1]).obtain()
"""
_NO_MIRROR = "http://127.0.0.1:9/debian"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the time, and give mmdebstrap a directory for temporary files where its leftovers would be seen."""
    require_mirror()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


def base(tmp_path: Path) -> BootstrapBase:
    return BootstrapBase("debian", SUITE, Bootstrap(), cache=tmp_path / "cache")


def packages_by_dpkg(archive: str, directory: Path) -> list[str]:
    """Ask dpkg itself what is installed in the archive."""
    with tarfile.open(archive) as tar:
        tar.extract("./var/lib/dpkg/status", directory, filter="data")
    admin = directory / "var/lib/dpkg"
    (admin / "info").mkdir()
    (admin / "updates").mkdir()
    query = ["dpkg-query", f"--admindir={admin}", "--show", "--showformat=${db:Status-Status} ${Package}=${Version}\n"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(line.removeprefix("installed ") for line in lines if line.startswith("installed "))


def test_a_bookworm_is_made_once_and_elsewhere_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with base(tmp_path) as first:
        tree = plant({}, first.entries())
        origin = first.origin
        made = first.obtain()
    assert list(origin.packages) == packages_by_dpkg(made.path, tmp_path / "asked")
    assert {"sysvinit-core", "ifupdown", "e2fsprogs"} <= {line.partition("=")[0] for line in origin.packages}
    assert origin.sha256 == made.sha256
    assert made.made_by.startswith("mmdebstrap ")

    assert (tree["/usr/bin/su"].mode, tree["/usr/bin/su"].uid) == (0o4755, 0)
    assert (tree["/dev/null"].type, tree["/dev/null"].device) == (FileType.CHARACTER_DEVICE, (1, 3))
    assert tree["/tmp"].mode == 0o1777
    assert tree["/sbin"].type is FileType.SYMLINK
    assert max(inode.mtime_ns for inode in tree.values()) <= int(EPOCH) * 10**9
    assert not {"/etc/hostname", "/etc/resolv.conf"} & tree.keys()

    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(only(tmp_path / "bin", "dpkg")))
        begin = time.monotonic()
        assert base(tmp_path).obtain() == made
        assert time.monotonic() - begin < 10
    assert not list((tmp_path / "tmp").iterdir())

    monkeypatch.setattr("tempfile.tempdir", None)  # which apt's own user can enter, unlike the one before
    other = real_debian(Init.SYSVINIT)
    if other.packages != made.packages:  # an old one, of packages that the mirror no longer has
        other = real_debian(Init.SYSVINIT, refresh=True)
    assert other.path != made.path
    assert other.sha256 == made.sha256


def only(directory: Path, program: str) -> Path:
    """Make a directory with nothing but one program in it."""
    directory.mkdir()
    (directory / program).symlink_to(str(shutil.which(program)))
    return directory


class Run:
    """A bootstrap in a process of its own; a context manager that leaves none behind."""

    def __init__(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", _OBTAIN, str(tmp_path / "cache")]
        environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(Path(__file__).parents[2])}
        self._scratch = tmp_path / "tmp"
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
        self.group = 0

    def wait_until_it_unpacks(self, *, beside: frozenset[Path] = frozenset()) -> frozenset[Path]:
        """Wait until packages are being unpacked, and return in which directories; `beside` are an earlier run's."""
        assert eventually(lambda: bool(self._unpacked() - beside) or self.process.poll() is not None)
        assert self.process.poll() is None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.group = int(children.read_text().split()[0])
        return self._unpacked()

    def _unpacked(self) -> frozenset[Path]:
        return frozenset(path.parents[1] for path in self._scratch.glob("*/mmdebstrap.*/usr/bin"))

    def group_is_gone(self) -> bool:
        try:
            os.killpg(self.group, 0)
        except ProcessLookupError:
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGKILL)


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def finished_files(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_stopped_or_killed_nothing_looks_finished_and_nothing_stays(tmp_path: Path) -> None:
    """The first run is killed together with its mmdebstrap, the next one is stopped from the keyboard."""
    with Run(tmp_path) as run:
        left = run.wait_until_it_unpacks()
        run.process.kill()
        run.process.wait()
        assert not run.group_is_gone()  # mmdebstrap would go on, and clear up behind itself
        os.killpg(run.group, signal.SIGKILL)
        assert eventually(run.group_is_gone)
    assert finished_files(tmp_path) == []
    assert all(path.exists() for path in left)

    with Run(tmp_path) as run:
        assert not run.wait_until_it_unpacks(beside=left) & left
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(60) != 0
        assert eventually(run.group_is_gone)
    assert finished_files(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize(
    ("suite", "settings", "what"),
    [
        ("nosuch", Bootstrap(), "the mirror has no suite for debian:nosuch"),
        (SUITE, Bootstrap(mirror=_NO_MIRROR), f"cannot reach the mirror of debian:{SUITE}"),
    ],
)
def test_what_is_not_to_be_had(tmp_path: Path, suite: str, settings: Bootstrap, what: str) -> None:
    with pytest.raises(NoInputError) as caught:
        BootstrapBase("debian", suite, settings, cache=tmp_path / "cache").obtain()
    assert caught.value.what == what
    assert finished_files(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []
