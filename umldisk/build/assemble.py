"""Making a set of disks: from a base to five checked files and their manifest in one directory.

    base ──entries──▶ pool (contents)        read once, as a stream
              │
              ▼
            tree ◀── guest files, modules, overlay
              │ split
              ▼
           shares ──▶ scratch trees ──mke2fs -d──▶ disks ──debugfs──▶ disks ──e2fsck──▶ digest, manifest

Each step is a function of the one context, `Assembly`, and happens in the order in which they stand here; only the
digest of what the base gave is taken while we wait for the disks. Everything lies below the target directory, in which
only the finished files are left. The largest thing in memory is the tree, some 600 bytes a file; contents pass through
in pieces.

Nothing on the disks depends on the day, the machine or the builder. Their latest time is SOURCE_DATE_EPOCH; without it
it is the newest in the base up to 2038, and that is also the time of every file that we add.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from umldisk import __version__
from umldisk.build import manifest
from umldisk.build.aside import Aside
from umldisk.build.bases.base import Base, Origin
from umldisk.build.crew import DiskPlan, clear, make_disks, weight_of
from umldisk.build.disks import PACKAGE, Workshop
from umldisk.build.files.facts import BaseFacts, InitSystem, inspect
from umldisk.build.files.modules import module_entries
from umldisk.build.files.overlay import overlay_entries
from umldisk.build.files.render import guest_entries
from umldisk.build.fit import require_fit
from umldisk.build.limits import require_lengths, require_writable
from umldisk.build.pool import Pool
from umldisk.build.scratch import Layout
from umldisk.build.split import require_init_on_root, split
from umldisk.build.tree import Entry, HardLink, Tree, lay_over, limit_times, plant
from umldisk.config.guest import Guest
from umldisk.errors import from_os_error
from umldisk.image.drives import Content, Drive
from umldisk.progress import SILENT, Progress
from umldisk.system.process import run

_SCRATCH = "scratch"
_LATEST_OWN_NS = (1 << 31) * 1_000_000_000 - 1
"""A stray later time is kept, but not given to file systems and files of ours: old tools count 31 bits."""


@dataclass(slots=True)
class Assembly:
    """One set of disks in the making; `latest_ns` is SOURCE_DATE_EPOCH, if set, in nanoseconds."""

    guest: Guest
    directory: str
    latest_ns: int | None = None
    progress: Progress = SILENT
    tree: Tree = field(default_factory=dict)
    time_ns: int = 0
    given_sha256: str = ""

    @property
    def scratch(self) -> str:
        """Where everything lies that is not the result."""
        return os.path.join(self.directory, _SCRATCH)


@dataclass(frozen=True, slots=True)
class Assembled:
    """What was made: what the base was, the digest of every disk by the drive's name, sentences for the builder."""

    origin: Origin
    digests: Mapping[str, str]
    remarks: tuple[str, ...] = ()


def assemble(assembly: Assembly, base: Base) -> Assembled:
    """Make every disk of the guest, and the manifest, in the assembly's empty directory; all is synced.

    Raises DataError for a base that cannot be kept or does not fit, NoInputError for programs that are missing,
    StorageError when there is no room or a program fails.
    """
    _make_scratch(assembly.scratch)
    pool = Pool(os.path.join(assembly.scratch, "pool"), most_bytes=_room_bytes(assembly.guest))
    _read_base(assembly, base, pool)
    given = dict(assembly.tree)
    facts = _add_guest_files(assembly, pool)
    require_init_on_root(assembly.tree, assembly.guest.drives)
    shares = split(assembly.tree, assembly.guest.drives, mtime_ns=assembly.time_ns)
    workshop = Workshop.open(assembly.scratch, time_ns=assembly.time_ns)
    for drive, share in shares.items():
        require_writable(drive, share)
        require_fit(assembly.guest.name, drive, share, workshop)
    _lay_out(assembly, shares)
    with Aside() as aside:
        aside.do(_digest_given, assembly, given)
        digests = _make_disks(assembly, shares, workshop)
        aside.wait()
    about = manifest.describe_origin(base.origin, assembly.given_sha256)
    _write_manifest(assembly, shares, about, digests, facts.init)
    clear(assembly.scratch)
    return Assembled(base.origin, digests, _remarks(facts))


def _room_bytes(guest: Guest) -> int:
    return sum(drive.size_bytes for drive in guest.drives if drive.content is not Content.SWAP)


def _make_scratch(path: str) -> None:
    try:
        os.mkdir(path)
        os.chmod(path, 0o700)
    except OSError as error:
        raise from_os_error(error, "create a scratch directory", path) from error


def _read_base(assembly: Assembly, base: Base, pool: Pool) -> None:
    """Fill tree and pool from the base."""
    with assembly.progress.task("reading the base") as task:
        entries = limit_times(require_lengths(base.entries(), assembly.guest.drives), assembly.latest_ns)
        plant(assembly.tree, pool.take(entries, when_read=task.add))
    assembly.time_ns = assembly.latest_ns if assembly.latest_ns is not None else _newest_ns(assembly.tree)


def _digest_given(assembly: Assembly, given: Tree) -> None:
    assembly.given_sha256 = manifest.tree_digest(given)


def _newest_ns(tree: Tree) -> int:
    return max((inode.mtime_ns for inode in tree.values() if inode.mtime_ns <= _LATEST_OWN_NS), default=0)


def _add_guest_files(assembly: Assembly, pool: Pool) -> BaseFacts:
    """Lay over the base what makes it this guest; the user's own files come last and win. Returns what the base is."""
    guest, files = assembly.guest, assembly.guest.files
    facts = inspect(assembly.tree)
    _lay_over(assembly, pool, iter(guest_entries(guest, facts, mtime_ns=assembly.time_ns)))
    modules = files.modules if files.modules is not None or facts.kmod else ()
    _lay_over(assembly, pool, module_entries(modules))
    if files.overlay is not None:
        _lay_over(assembly, pool, overlay_entries(files.overlay, scratch=assembly.directory))
    return facts


def _remarks(facts: BaseFacts) -> tuple[str, ...]:
    if facts.init is InitSystem.NONE:
        return ("the base has no init: the kernel finds nothing to start, unless it is told init=PROGRAM",)
    if facts.init is InitSystem.OTHER:
        return ("the base has an init that is not known here: it got no getty and no ready marker",)
    return ()


def _lay_over(assembly: Assembly, pool: Pool, entries: Iterator[Entry | HardLink]) -> None:
    lay_over(assembly.tree, pool.take(limit_times(entries, assembly.latest_ns)))


def _lay_out(assembly: Assembly, shares: Mapping[Drive, Tree]) -> None:
    layout = Layout(shares.values())
    with assembly.progress.task("laying out the drives", sum(map(weight_of, shares.values()))) as task:
        for drive, share in shares.items():
            layout.write(_scratch_tree(assembly, drive), share)
            task.add(weight_of(share))


def _scratch_tree(assembly: Assembly, drive: Drive) -> str:
    return os.path.join(assembly.scratch, f"{drive.name}.tree")


def _make_disks(assembly: Assembly, shares: Mapping[Drive, Tree], workshop: Workshop) -> dict[str, str]:
    """Make all disks, the largest shares first; return their digests."""
    plans = [
        DiskPlan(assembly.guest, drive, shares.get(drive, {}), assembly.directory, _scratch_tree(assembly, drive))
        for drive in sorted(assembly.guest.drives, key=lambda drive: -len(shares.get(drive, ())))
    ]
    with assembly.progress.task("writing the disks", sum(plan.weight for plan in plans)) as task:
        return make_disks(plans, workshop, task=task)


def _write_manifest(
    assembly: Assembly,
    shares: Mapping[Drive, Tree],
    base: Mapping[str, Any],
    digests: Mapping[str, str],
    init: InitSystem,
) -> None:
    guest = assembly.guest
    head = {
        "guest": guest.name,
        "base": base,
        "init": init.value,
        "time": assembly.time_ns,
        "tools": _tool_versions(),
    }
    drives = [manifest.describe_drive(guest, drive, digests[drive.name]) for drive in guest.drives]
    files = (row for drive, share in shares.items() for row in manifest.describe_tree(share, drive.name, at=drive))
    path = os.path.join(assembly.directory, manifest.FILE_NAME)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.writelines(manifest.render(head, drives, files))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise from_os_error(error, "write the manifest", path) from error


def _tool_versions() -> dict[str, str]:
    said = run(["mke2fs", "-V"], package=PACKAGE).stderr.decode(errors="replace").split()
    return {"umldisk": __version__, "e2fsprogs": said[1] if len(said) > 1 else "unknown"}
