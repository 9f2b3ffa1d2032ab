"""Merging a COW file and everything below it into a new image.

    top COW ─┐
    COW ─────┼──▶ plan ──▶ staged file ──▶ (verify) ──▶ NEW appears
    base ────┘

Where the file system can share data (btrfs, xfs), the new image begins as a reflink of the base and the COW layers are
laid over it bottom up; elsewhere it is assembled in one pass, so that no byte is written twice. Holes stay holes, and
pages of zeros from a COW file become holes. The inputs are only read and stay locked all the while; NEW is nothing,
or what it was before, until it is whole.

A block device as NEW is the exception: it cannot appear at once. It is written in place and zeroed where the image has
holes, so that no old data shows through.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from umldisk.cow.execute import Executor, Manner
from umldisk.cow.file import Access, CowFile
from umldisk.cow.layers import CowLayer, Layer, Segment
from umldisk.cow.output import check_target, open_target
from umldisk.cow.plan import Totals, coalesce, measure, thicken
from umldisk.errors import StorageError, from_os_error
from umldisk.progress import SILENT, Progress, Task
from umldisk.system import files, transfer
from umldisk.system.files import DiskFile
from umldisk.system.transfer import CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How a merge is done.

    `replace` an existing output; `sparse`: zero pages become holes, else everything is allocated; `sync` to the medium
    before the output appears; `verify`: read everything again and compare; `dry_run`: only plan.
    """

    replace: bool = False
    sparse: bool = True
    sync: bool = True
    verify: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did, or with `dry_run` would do; `shared` says that the base's data is shared, not copied."""

    cow: str
    backing: str
    output: str
    size_bytes: int
    totals: Totals
    shared: bool = False
    verified: bool = False
    dry_run: bool = False


def merge(
    cow: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    access: Access | None = None,
    options: MergeOptions | None = None,
    progress: Progress = SILENT,
) -> MergeReport:
    """Write what a guest sees on `cow` as the raw image `new`, with the mode and owner of the backing file.

    `new` appears whole or not at all. Raises what CowFile.open raises, CannotCreateError when `new` is there and may
    not be replaced, DataError when it is one of the inputs, StorageError when reading or writing fails.
    """
    options = options or MergeOptions()
    output = os.fspath(new)
    with CowFile.open(cow, access=access) as source:
        stack = stack_of(source.layer)
        files.refuse_same_file(output, *(layer.disk for layer in stack))
        if options.dry_run:
            check_target(output, replace=options.replace, size_bytes=source.size_bytes)
            totals, shared = measure(_assembly(source.layer)), False
        else:
            totals, shared = _write(source.layer, stack, output, options, progress)
        return MergeReport(
            cow=source.path,
            backing=source.backing.disk.path,
            output=output,
            size_bytes=source.size_bytes,
            totals=totals,
            shared=shared,
            verified=options.verify and not options.dry_run,
            dry_run=options.dry_run,
        )


def stack_of(layer: Layer) -> list[Layer]:
    """Return the layers from this one down to the raw image."""
    stack = [layer]
    while isinstance(layer, CowLayer):
        layer = layer.below
        stack.append(layer)
    return stack


def merge_to_stream(
    cow: str | os.PathLike[str],
    stream: BinaryIO,
    *,
    access: Access | None = None,
    progress: Progress = SILENT,
) -> MergeReport:
    """Write the merged image to `stream` as raw bytes, zeros included."""
    with CowFile.open(cow, access=access) as source:
        chunk = memoryview(bytearray(CHUNK_BYTES))
        with progress.task("merge", source.size_bytes) as task:
            for offset in range(0, source.size_bytes, CHUNK_BYTES):
                part = chunk[: min(CHUNK_BYTES, source.size_bytes - offset)]
                source.layer.read_into(offset, part)
                stream.write(part)
                task.add(len(part))
            stream.flush()
        totals = Totals(runs=1, copied_bytes=source.size_bytes)
        return MergeReport(source.path, source.backing.disk.path, "-", source.size_bytes, totals)


def _assembly(top: CowLayer) -> Iterator[Segment]:
    return coalesce(thicken(top.segments(0, top.size_bytes), top))


def _write(
    top: CowLayer, stack: list[Layer], output: str, options: MergeOptions, progress: Progress
) -> tuple[Totals, bool]:
    base = stack[-1].disk
    opening = open_target(output, base, size_bytes=top.size_bytes, replace=options.replace, sync=options.sync)
    with opening as target, _io_errors(output):
        with progress.task("merge", top.size_bytes) as task:
            totals, shared = _fill(target, top, stack, options, task)
        if options.verify:
            verify(top, target, progress)
        return totals, shared


def _fill(
    target: DiskFile, top: CowLayer, stack: list[Layer], options: MergeOptions, task: Task
) -> tuple[Totals, bool]:
    fresh = not target.is_block_device
    if fresh and options.sparse and transfer.reflink(stack[-1].disk.fd, target.fd):
        executor = Executor(target, Manner(fresh=False, share=True), task)
        for layer in reversed(stack[:-1]):
            assert isinstance(layer, CowLayer)
            aligned = layer.data_offset % transfer.PAGE_BYTES == 0  # else nothing of it can be cloned
            totals = executor.overlay(coalesce(layer.changed(split_holes=not aligned)))
        return totals, True
    if fresh:
        os.ftruncate(target.fd, top.size_bytes)
    if fresh and not options.sparse and top.size_bytes:
        os.posix_fallocate(target.fd, 0, top.size_bytes)
    manner = Manner(sparse=options.sparse, fresh=fresh)
    return Executor(target, manner, task).assemble(_assembly(top)), False


def verify(top: Layer, target: DiskFile, progress: Progress = SILENT) -> None:
    """Read both again and compare; raises StorageError with the place of the first difference."""
    ours, theirs = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES)
    with progress.task("verify", top.size_bytes) as task:
        for offset in range(0, top.size_bytes, CHUNK_BYTES):
            length = min(CHUNK_BYTES, top.size_bytes - offset)
            top.read_into(offset, memoryview(ours)[:length])
            read = transfer.read_into(target.fd, offset, memoryview(theirs)[:length])
            if read < length or not transfer.same(ours, theirs, length):
                raise StorageError(
                    "what was written reads back differently", where=f"{target.path}, byte {offset} or after"
                )
            task.add(length)


@contextlib.contextmanager
def _io_errors(path: str) -> Iterator[None]:
    """Say which file an operating system error is about, at least as far as we know."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, "write", path) from error
