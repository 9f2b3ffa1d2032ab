"""The one place that puts single files in place, replaces and removes them; whole sets move by `swapping`.

`staged` gives an unnamed file in the target's directory. Its name appears by one link or rename after its contents were
synced, and the directory is synced after that. Whoever looks sees the old file, or none, or the whole new one. Killing
the process leaves nothing behind: the kernel frees an unnamed file. Where a file system has no unnamed files a hidden
name is used, and the next run in that directory sweeps what a killed one left.

Not guaranteed: anything after a power cut with `sync=False`, and atomicity against a target directory on a network file
system that lies about rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator

from umldisk.errors import CannotCreateError, from_os_error
from umldisk.system import locks
from umldisk.system.files import DiskFile

_STAGE_NAME = re.compile(r"\..*\.umldisk-stage-[0-9a-f]{8}", re.DOTALL)


def sync_directory(path: str) -> None:
    """Make the names in directory `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a directory
            raise from_os_error(error, "sync", path) from error
    finally:
        os.close(fd)


def remove(path: str, *, sync: bool = True) -> None:
    """Remove the file `path` if it is there, durably."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os_error(error, "remove", path) from error
    if sync:
        sync_directory(os.path.dirname(path) or ".")


def write_file(path: str, contents: bytes, *, mode: int = 0o644, sync: bool = True) -> None:
    """Put a small file in place, replacing what was there, all or nothing."""
    with staged(path, replace=True, sync=sync, mode=mode) as stage:
        stage.write_at(0, contents)


def nameless(directory: str, *, called: str | None = None) -> DiskFile:
    """Open an empty file in `directory` that no name leads to, and that is gone when it is closed.

    Errors name it as `called`; without that it has the path below /proc by which this process can open it again. Raises
    StorageError.
    """
    import tempfile  # costs time that few commands have to spend

    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            fd = os.dup(file.fileno())
    except OSError as error:
        raise from_os_error(error, "create a file in", directory) from error
    return DiskFile(called or f"/proc/self/fd/{fd}", fd)


@contextlib.contextmanager
def staged(
    path: str | os.PathLike[str],
    *,
    replace: bool = False,
    sync: bool = True,
    mode: int | None = None,
    like: os.stat_result | None = None,
) -> Iterator[DiskFile]:
    """Give an unnamed file that becomes `path` when the block ends well, and vanishes when it does not.

    `replace` lets it take the place of an existing file (through a symlink: of the file the link leads to). `mode`
    sets its permissions, `like` those and, where we may, the owner of another file.

    Raises CannotCreateError when `path` exists and `replace` is false, or its directory takes no new file.
    """
    target = _refuse_target(path, replace=replace)
    directory = os.path.dirname(target)
    stage_name, fd = _open_stage(target, directory)
    stage = DiskFile(target, fd)
    try:
        _dress(stage, mode, like)
        yield stage
        if sync:
            stage.sync()
        _publish(stage, stage_name, target, replace=replace)
        stage_name = None
        if sync:
            sync_directory(directory)
    except OSError as error:
        raise from_os_error(error, "write", target) from error
    finally:
        stage.close()
        if stage_name is not None:
            with contextlib.suppress(OSError):
                os.unlink(stage_name)


def require_place(path: str) -> None:
    """Raise CannotCreateError when `staged` could not put a file in the place of `path`, as far as is seen beforehand.

    For results that are only there after long work.
    """
    target = _refuse_target(path, replace=True)
    stage_name, fd = _open_stage(target, os.path.dirname(target))
    os.close(fd)
    if stage_name is not None:
        remove(stage_name, sync=False)


def _exists(target: str) -> CannotCreateError:
    return CannotCreateError("the output exists already", where=target, hint="replace it with --force")


def _refuse_target(path: str | os.PathLike[str], *, replace: bool) -> str:
    """Return where `path` leads to, unless nothing may be put there."""
    target = os.fspath(path)
    try:
        target = os.path.realpath(path)
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target
    except (OSError, ValueError) as error:
        raise _cannot_create(error, target) from error
    if not stat.S_ISREG(mode):
        raise CannotCreateError("the output is there and is not a regular file", where=target)
    if not replace:
        raise _exists(target)
    return target


def _cannot_create(error: OSError | ValueError, target: str) -> CannotCreateError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return CannotCreateError(f"cannot create: {reason}", where=target)


def _open_stage(target: str, directory: str) -> tuple[str | None, int]:
    """Open the unnamed file, or where there is no such thing a hidden one; return its name (None) and descriptor."""
    try:
        sweep(directory)
        if os.path.isdir("/proc/self/fd"):  # without it an unnamed file could not be named later
            with contextlib.suppress(OSError):
                return None, os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
        name = _stage_name(target)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        locks.lock(fd, name, exclusive=True)
    except (OSError, ValueError) as error:
        raise _cannot_create(error, target) from error
    return name, fd


def _stage_name(target: str) -> str:
    directory, base = os.path.split(target)
    start = os.fsdecode(os.fsencode(base)[:200])  # a name holds 255 bytes, however many characters these are
    return os.path.join(directory, f".{start}.umldisk-stage-{secrets.token_hex(4)}")


def sweep(directory: str) -> None:
    """Remove hidden stage files that killed processes left in `directory`; those in use are locked and stay."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if _STAGE_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _sweep_one(entry.path)


def _sweep_one(path: str) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if locks.try_lock(fd, exclusive=True):
                os.unlink(path)
        finally:
            os.close(fd)


def _dress(stage: DiskFile, mode: int | None, like: os.stat_result | None) -> None:
    if like is not None:
        with contextlib.suppress(PermissionError):
            os.fchown(stage.fd, like.st_uid, like.st_gid)
        os.fchmod(stage.fd, stat.S_IMODE(like.st_mode))
    elif mode is not None:
        os.fchmod(stage.fd, mode)


def _publish(stage: DiskFile, stage_name: str | None, target: str, *, replace: bool) -> None:
    """Let the staged file appear as `target` in one step."""
    if stage_name is None and not replace:
        try:
            _name(stage, target)
        except FileExistsError as error:
            raise _exists(target) from error
        return
    if stage_name is None:
        stage_name = _stage_name(target)
        locks.lock(stage.fd, stage_name, exclusive=True)
        _name(stage, stage_name)
    if not replace:
        _link_once(stage_name, target)
        return
    os.rename(stage_name, target)


def _name(stage: DiskFile, name: str) -> None:
    """Give the unnamed file a name."""
    # src_dir_fd does nothing for an absolute path, but makes Python call linkat, which can follow the /proc link
    os.link(f"/proc/self/fd/{stage.fd}", name, src_dir_fd=stage.fd, follow_symlinks=True)


def _link_once(stage_name: str, target: str) -> None:
    try:
        os.link(stage_name, target)
    except FileExistsError as error:
        raise _exists(target) from error
    os.unlink(stage_name)
