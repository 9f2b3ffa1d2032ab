"""How mmdebstrap is run: what it is given, what is left of it, and what its failures are called.

A script of our own stands in its place on the PATH; tests/real has the real one.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from umldisk.build.bases.bootstrap_cache import Order
from umldisk.build.bases.bootstrap_run import bootstrap, failure, run_argv
from umldisk.errors import CannotCreateError, NoInputError, StorageError, UmldiskError

ORDER = Order("debian:sid", ("mmdebstrap", "--format=tar", "sid", "-", "deb http://x sid main"))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the only directory for temporary files."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    with (tmp_path / "lock").open("wb") as file:
        yield file.fileno()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program on the PATH that tells its version, and else does what the test writes into a file beside it."""
    program = tmp_path / "bin" / "mmdebstrap"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo mmdebstrap 9.9 && exit\n. {tmp_path}/body\n')
    program.chmod(0o755)
    (program.parent / "newuidmap").symlink_to("/bin/true")  # looked for when this is not root
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "body"


def output_of(order: Order, tmp_path: Path, lock: int) -> list[str]:
    """Run the stand-in to a good end, and return what it wrote."""
    with (tmp_path / "output").open("wb") as output:
        assert bootstrap(order, output.fileno(), lock) == "mmdebstrap 9.9"
    return (tmp_path / "output").read_text().splitlines()


@pytest.mark.parametrize(
    ("epoch", "as_root", "begin"),
    [
        (None, True, ("env", "--unset=SOURCE_DATE_EPOCH", "mmdebstrap", "--mode=root")),
        (None, False, ("env", "--unset=SOURCE_DATE_EPOCH", "mmdebstrap", "--mode=unshare")),
        ("0", False, ("env", "SOURCE_DATE_EPOCH=0", "mmdebstrap", "--mode=unshare")),
    ],
)
def test_the_command(epoch: str | None, as_root: bool, begin: tuple[str, ...]) -> None:
    order = Order("debian:sid", ORDER.argv, epoch)
    assert run_argv(order, as_root=as_root) == (*begin, "--format=tar", "sid", "-", "deb http://x sid main")


def test_what_it_is_given(tmp_path: Path, directory: Path, lock: int, stand_in: Path) -> None:
    stand_in.write_text('for word; do echo "$word"; done; pwd; stat --format=%a "$TMPDIR"; dirname "$TMPDIR"')
    told = output_of(ORDER, tmp_path, lock)
    assert told[1:] == [*ORDER.argv[1:], "/", "711", str(directory)]
    assert told[0] == f"--mode={'unshare' if os.geteuid() else 'root'}"
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(("given", "seen"), [(None, "unset"), ("1700000000", "1700000000")])
def test_it_sees_the_time_of_the_order_and_no_other(
    tmp_path: Path, lock: int, stand_in: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, seen: str
) -> None:
    stand_in.write_text('echo "${SOURCE_DATE_EPOCH-unset}"')
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert output_of(Order(ORDER.source, ORDER.argv, given), tmp_path, lock) == [seen]


@pytest.mark.parametrize("status", [0, 1])
def test_what_was_left_is_cleared_before_and_after(
    tmp_path: Path, directory: Path, lock: int, stand_in: Path, status: int
) -> None:
    stand_in.write_text('echo "$TMPDIR"')
    (scratch,) = output_of(ORDER, tmp_path, lock)
    file = Path(scratch) / "mmdebstrap.XX" / "usr" / "bin" / "x"
    file.parent.mkdir(parents=True)
    file.touch()
    (file.parent / "outside").symlink_to(tmp_path)

    stand_in.write_text(
        f'ls "$TMPDIR" >&2; mkdir -p "$TMPDIR/left/usr"; : >"$TMPDIR/left/x"; echo E: over >&2; exit {status}'
    )
    with (tmp_path / "output").open("wb") as output:
        if status:
            with pytest.raises(StorageError, match="cannot bootstrap debian:sid: over"):
                bootstrap(ORDER, output.fileno(), lock)
        else:
            bootstrap(ORDER, output.fileno(), lock)
    assert list(directory.iterdir()) == []
    assert stand_in.exists()


def test_two_that_are_made_at_once_do_not_share_a_directory(tmp_path: Path, lock: int, stand_in: Path) -> None:
    stand_in.write_text('echo "$TMPDIR"')
    first = output_of(ORDER, tmp_path, lock)
    with (tmp_path / "other lock").open("wb") as other:
        assert output_of(ORDER, tmp_path, other.fileno()) != first
    assert output_of(ORDER, tmp_path, lock) == first


def test_a_file_in_the_place_of_the_directory_is_left_alone(
    tmp_path: Path, directory: Path, lock: int, stand_in: Path
) -> None:
    stand_in.write_text('echo "$TMPDIR"')
    (scratch,) = output_of(ORDER, tmp_path, lock)
    (tmp_path / "precious" / "directory").mkdir(parents=True)
    (tmp_path / "precious" / "directory" / "file").touch()
    Path(scratch).symlink_to(tmp_path / "precious")
    with (tmp_path / "output").open("wb") as output, pytest.raises(CannotCreateError, match="somebody else"):
        bootstrap(ORDER, output.fileno(), lock)
    assert (tmp_path / "precious" / "directory" / "file").exists()


# The lines are mmdebstrap's and apt's own.
_END = """\
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed
I: main() received signal PIPE: waiting for setup...
I: removing tempdir /tmp/mmdebstrap.Q0DeyXk0M2...
E: mmdebstrap failed to run
"""
_NO_RELEASE = "The repository 'http://deb.debian.org/debian nosuch Release' does not have a Release file."
_NO_HOST = "Failed to fetch http://nosuch.invalid/dists/sid/InRelease  Could not resolve 'nosuch.invalid'"
_NO_INDEX = "Some index files failed to download. They have been ignored, or old ones used instead."
_NO_KEY = "The repository 'http://x jammy InRelease' is not signed."
_FULL = "cannot copy to standard output: No space left on device"
_IDS = "failed to parse /etc/subuid and /etc/subgid"


@pytest.mark.parametrize(
    ("stderr", "kind", "what", "found"),
    [
        (f"E: {_NO_RELEASE}\n{_END}", NoInputError, "the mirror has no suite for debian:sid", _NO_RELEASE),
        (f"E: {_NO_HOST}\nE: {_NO_INDEX}\n{_END}", NoInputError, "cannot reach the mirror of debian:sid", _NO_HOST),
        (
            f"E: Unable to locate package nosuch\nE: setup failed: E: apt-get --yes install nosuch failed\n{_END}",
            NoInputError,
            "debian:sid lacks what is to be installed",
            "Unable to locate package nosuch",
        ),
        (
            f"W: GPG error: http://x jammy InRelease: NO_PUBKEY 871920D1991BC93C\nE: {_NO_KEY}\n{_END}",
            NoInputError,
            "none of the known keys signed the mirror's debian:sid",
            _NO_KEY,
        ),
        (
            f"W: no entry in /etc/subuid for nobody\nE: {_IDS}\n",
            StorageError,
            "this user has no range of ids to bootstrap debian:sid with",
            _IDS,
        ),
        (
            f"W: creating tarball failed: E: {_FULL}\n{_END}",
            StorageError,
            "no room to bootstrap debian:sid",
            _FULL,
        ),
        (
            f"E: something \x1b[31mnew\n{_END}",
            StorageError,
            "cannot bootstrap debian:sid: something \\x1b[31mnew",
            None,
        ),
        (_END, StorageError, "cannot bootstrap debian:sid: mmdebstrap failed to run", None),
        ("I: nothing\n", StorageError, "cannot bootstrap debian:sid: it ended with status 25", None),
    ],
)
def test_a_failure_says_why(stderr: str, kind: type[UmldiskError], what: str, found: str | None) -> None:
    error = failure(ORDER, 25, stderr)
    assert type(error) is kind
    assert (error.what, error.found) == (what, found)
    assert bool(error.hint) == bool(found)
