"""Taking a checkpoint out of the store: as an image, as a stream, or as the smallest COW file over a given disk.

    image     assembled into a file that appears whole or not at all, sparse
    stream    chunk after chunk in order, each checked before it goes out, zeros included
    COW       assembled into a file without a name beside the COW file, then compared with the backing file

The chunks on the way are checked by their names and the image as a whole against the index, which must be the one that
the checkpoint's record names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from umldisk.checkpoint.assemble import Assembled, assemble, fetched, load_index
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.index import Index
from umldisk.checkpoint.store import Store
from umldisk.config.site import Site
from umldisk.cow.differencing import DifferenceReport, difference
from umldisk.cow.output import held_output
from umldisk.errors import DataError
from umldisk.ops.checkpoints.naming import find_checkpoint
from umldisk.ops.checkpoints.storage import required_catalog, store_of
from umldisk.progress import SILENT, Progress
from umldisk.system.files import open_disk
from umldisk.system.staging import nameless, staged

_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a checkpoint is exported: with `cow_over`, as a COW file over that backing file; `replace` what is there."""

    cow_over: str | None = None
    replace: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, or with `dry_run` would be: `output` is "-" for a stream, `cow` is set for a COW file."""

    guest: str
    number: int
    drive: str
    output: str
    size_bytes: int
    index_sha256: str
    assembled: Assembled | None
    cow: DifferenceReport | None
    dry_run: bool


def export_named(
    site: Site,
    guest: str,
    name: str,
    output: str | os.PathLike[str] | BinaryIO,
    *,
    drive: str | None = None,
    options: ExportOptions | None = None,
    progress: Progress = SILENT,
) -> ExportReport:
    """Write the checkpoint that `name` names to a file or stream; raises what finding and exporting it raises."""
    store = store_of(site, guest)
    with required_catalog(site, guest) as catalog:
        checkpoint = find_checkpoint(catalog, guest, name, drive=drive)
    if isinstance(output, str | os.PathLike):
        return export_checkpoint(store, checkpoint, output, options=options, progress=progress)
    return export_to_stream(store, checkpoint, output, progress=progress)


def export_checkpoint(
    store: Store,
    checkpoint: Checkpoint,
    output: str | os.PathLike[str],
    *,
    options: ExportOptions | None = None,
    progress: Progress = SILENT,
) -> ExportReport:
    """Write the disk of a checkpoint to the file `output`, which appears whole or not at all.

    Raises NoInputError when the checkpoint was deleted, DataError when a chunk is missing or damaged,
    CannotCreateError when `output` is there and may not be replaced, StorageError when store or disk fail, and what
    umldisk.cow.difference raises.
    """
    chosen, path = options or ExportOptions(), os.fspath(output)
    index = load_index(store, checkpoint)
    assembled, cow = None, None
    if chosen.cow_over is not None:
        with open_disk(chosen.cow_over) as backing:
            _require_size(index, backing.path, backing.size_bytes)
    with held_output(path, replace=chosen.replace):
        pass
    if chosen.dry_run:
        pass
    elif chosen.cow_over is None:
        assembled = _write_image(store, index, path, chosen, progress)
    else:
        assembled, difference_made = _write_cow(store, index, path, chosen, progress)
        cow = replace(difference_made, image=f"checkpoint {checkpoint.number}")
    return _report(checkpoint, path, index, assembled=assembled, cow=cow, dry_run=chosen.dry_run)


def export_to_stream(
    store: Store, checkpoint: Checkpoint, stream: BinaryIO, *, progress: Progress = SILENT
) -> ExportReport:
    """Write the disk of a checkpoint to `stream` as raw bytes, zeros included.

    What has gone out by the time of a failure is right as far as it goes. Raises what `export_checkpoint` raises, and
    the stream's own OSError.
    """
    index = load_index(store, checkpoint)
    with progress.task("export", index.size_bytes) as task:
        for data in _pieces(store, index):
            stream.write(data)
            task.add(len(data))
        stream.flush()
    return _report(checkpoint, "-", index)


def _pieces(store: Store, index: Index) -> Iterator[bytes | memoryview]:
    for chunk, data in fetched(store, index):
        if data is not None:
            yield data
            continue
        for done in range(chunk.start, chunk.end, len(_ZEROS)):
            yield memoryview(_ZEROS)[: chunk.end - done]


def _require_size(index: Index, path: str, size_bytes: int) -> None:
    if size_bytes != index.size_bytes:
        raise DataError(
            "the backing file and the checkpoint differ in size",
            where=path,
            expected=index.size_bytes,
            found=size_bytes,
        )


def _write_image(store: Store, index: Index, path: str, options: ExportOptions, progress: Progress) -> Assembled:
    with (
        held_output(path, replace=options.replace) as replaced,
        staged(path, replace=options.replace, mode=None if replaced else 0o600, like=replaced) as stage,
    ):
        return assemble(store, index, stage, progress=progress)


def _write_cow(
    store: Store, index: Index, path: str, options: ExportOptions, progress: Progress
) -> tuple[Assembled, DifferenceReport]:
    assert options.cow_over is not None
    with nameless(os.path.dirname(os.path.realpath(path))) as image:
        assembled = assemble(store, index, image, is_kept=False, progress=progress)
        made = difference(options.cow_over, image.path, path, replace=options.replace, progress=progress)
    return assembled, made


def _report(
    checkpoint: Checkpoint,
    output: str,
    index: Index,
    *,
    assembled: Assembled | None = None,
    cow: DifferenceReport | None = None,
    dry_run: bool = False,
) -> ExportReport:
    return ExportReport(
        guest=checkpoint.guest,
        number=checkpoint.number,
        drive=checkpoint.drive,
        output=output,
        size_bytes=index.size_bytes,
        index_sha256=checkpoint.taken.index_sha256,
        assembled=assembled,
        cow=cow,
        dry_run=dry_run,
    )
