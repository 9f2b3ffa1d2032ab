"""Running mmdebstrap: as who, in which scratch directory, and what its failures mean.

mmdebstrap unpacks and installs in a directory of its own below TMPDIR, and takes it away again, also when its process
group is asked to end. It runs in a group of its own, because it sends SIGHUP to its whole group when its output cannot
be written. For the case that it was killed, TMPDIR is a directory of ours, named after the archive's lock: whoever
holds that may clear it. It is not inside the site, because a user namespace cannot enter a home of mode 0700.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.build.bases.bootstrap_cache import Order
from umldisk.errors import CannotCreateError, NoInputError, StorageError, UmldiskError, printable
from umldisk.system.process import DISCARD, find_program, run

PACKAGE = "mmdebstrap"
_SCRATCH_MODE = 0o711
"""The user namespace's root is another user, who has to get through."""
_ERROR = re.compile(r"(?<!\S)E: ")
_WRAPPERS = re.compile(
    r"mmdebstrap failed to run|setup failed|apt-get .* failed$|remove_tree failed|(rm|env) failed|run_chroot failed"
    r"|Some index files failed to download|The package lists or status file could not be parsed|Unmet dependencies"
)
"""Error lines that only say that something said before was an error."""


def bootstrap(order: Order, output: int, lock: int) -> str:
    """Run the mmdebstrap of `order` with its tar going to the descriptor `output`; return its name with its version.

    `lock` is the archive's lock, which lives as long as mmdebstrap does. Raises NoInputError when a program, the
    suite, a package or the mirror is missing, StorageError for every other failure.
    """
    as_root = os.geteuid() == 0
    if not as_root:
        find_program("newuidmap", package="uidmap")
    version = run([order.argv[0], "--version"], package=PACKAGE).stdout.decode(errors="replace").strip()
    with _scratch(lock) as directory:
        done = run(
            run_argv(order, as_root=as_root),
            environment={"TMPDIR": directory},
            cwd="/",  # the namespace's root may not be able to enter ours
            accepted=range(-64, 256),
            stdout=output,
            kept_lock=lock,
        )
    if done.status:
        raise failure(order, done.status, done.stderr.decode(errors="replace"))
    return version


def run_argv(order: Order, *, as_root: bool) -> tuple[str, ...]:
    """Return the command that carries out `order`: its own, with the mode, seeing the order's time and no other."""
    epoch = "--unset=SOURCE_DATE_EPOCH"  # an empty one would mean 1970
    if order.source_date_epoch is not None:
        epoch = f"SOURCE_DATE_EPOCH={order.source_date_epoch}"
    mode = "root" if as_root else "unshare"
    return ("env", epoch, order.argv[0], f"--mode={mode}", *order.argv[1:])


@contextlib.contextmanager
def _scratch(lock: int) -> Iterator[str]:
    """Give an empty directory that is named after the file of the lock: nobody else uses it while we hold that."""
    file = os.fstat(lock)
    path = os.path.join(tempfile.gettempdir(), f"umldisk-bootstrap-{os.geteuid()}-{file.st_dev:x}-{file.st_ino:x}")
    _clear(path)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        if not _is_ours(path):
            raise CannotCreateError("somebody else's file is where the scratch directory belongs", where=path)
        os.chmod(path, _SCRATCH_MODE)
    except OSError as error:
        raise CannotCreateError(f"cannot create: {error.strerror}", where=path) from error
    try:
        yield path
    finally:
        _clear(path)


def _is_ours(path: str) -> bool:
    found = os.lstat(path)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _clear(path: str) -> None:
    """Remove what a killed mmdebstrap left; the files of a user namespace take its root to do it."""
    with contextlib.suppress(OSError, UmldiskError):
        if not _is_ours(path):
            return
        for name in os.listdir(path):
            left = os.path.join(path, name)
            ours = os.geteuid() in (0, os.lstat(left).st_uid)
            helper = [] if ours else [PACKAGE, "--unshare-helper"]
            run([*helper, "find", left, "-xdev", "-mindepth", "1", "-delete"], cwd="/", stdout=DISCARD)
            os.rmdir(left)
        os.rmdir(path)


@dataclass(frozen=True, slots=True)
class _Cause:
    """A kind of failure: how it shows in a line of stderr, what we say, and what to do."""

    pattern: re.Pattern[str]
    error: type[UmldiskError]
    what: str
    hint: str


_CAUSES = (
    _Cause(
        re.compile(r"No space left on device"),
        StorageError,
        "no room to bootstrap {source}",
        "TMPDIR has to have room for the installed system and its packages, the site for a tar of it",
    ),
    _Cause(
        re.compile(r"failed to parse /etc/sub[ug]id|newuidmap|newgidmap|unshare.*(failed|not permitted)"),
        StorageError,
        "this user has no range of ids to bootstrap {source} with",
        "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
    ),
    _Cause(
        re.compile(r"Could not (resolve|connect)|Temporary failure|[Cc]onnection (timed out|failed)|unreachable"),
        NoInputError,
        "cannot reach the mirror of {source}",
        "check the network and http_proxy, or set another mirror",
    ),
    _Cause(
        re.compile(r"does not have a Release file"),
        NoInputError,
        "the mirror has no suite for {source}",
        "check the suite's name; an old one needs a mirror that still has it, such as http://archive.debian.org/debian",
    ),
    _Cause(
        re.compile(r"is not signed|NO_PUBKEY|following signatures"),
        NoInputError,
        "none of the known keys signed the mirror's {source}",
        "a newer package of the distribution's keyring may have the key",
    ),
    _Cause(
        re.compile(r"Unable to locate package|has no installation candidate|Version .* was not found|find any indices"),
        NoInputError,
        "{source} lacks what is to be installed",
        "check packages and components of [guest.NAME.bootstrap]",
    ),
)


def failure(order: Order, status: int, stderr: str) -> UmldiskError:
    """Say in one line why mmdebstrap ended with `status`, by what it and its programs wrote."""
    lines = [line[found.end() :].strip() for line in stderr.splitlines() for found in [*_ERROR.finditer(line)][-1:]]
    facts = {"source": order.source, "user": os.environ.get("USER") or str(os.geteuid())}
    for cause in _CAUSES:
        said = next((line for line in lines if cause.pattern.search(line)), None)
        if said is not None:
            return cause.error(cause.what.format(**facts), found=printable(said), hint=cause.hint.format(**facts))
    telling = [line for line in lines if line and not _WRAPPERS.search(line)]
    said = (telling or lines or [f"it ended with status {status}"])[-1]
    return StorageError(f"cannot bootstrap {order.source}: {printable(said)}")
