"""`umldisk info`: what files are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import FILE, backing_option, dialect_option, report_options
from umldisk.cli.output import Presenter, counted, exact_bytes, note, table
from umldisk.errors import UmldiskError

if TYPE_CHECKING:
    from umldisk.cow.dialect import Dialect
    from umldisk.cow.geometry import Geometry
    from umldisk.ops.describe import BackingFacts, Contents, CowFacts, Description, ExtFacts, SwapFacts

Row = tuple[str, str]

_HELP = """Say what each FILE is: a COW file, an ext file system, swap, or a raw image of something else.

Of a COW file every field of its header is shown, where its parts lie, how much is changed, the state
of its backing file, and what a guest finds on the disk. With --json there is one object a file.

\b
Examples:
  umldisk info root_cow
  umldisk info --json *_fs *_cow
"""

_EPILOG = """\b
Exit codes:
   0  done
   2  no FILE, or an unknown option
  65  a file claims to be a COW file and is damaged
  66  a file is missing or is no disk image
  74  reading failed
"""


@click.command(help=_HELP, epilog=_EPILOG)
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@backing_option
@dialect_option
@report_options
def info(files: Sequence[str], *, backing: str | None, dialect: Dialect | None, presenter: Presenter) -> None:
    """Describe what can be described; a file that cannot does not hide the others."""
    from umldisk.cow.file import Access
    from umldisk.ops.describe import describe

    described, failure = [], None
    for file in files:
        try:
            described.append(describe(file, Access(backing=backing, dialect=dialect)))
        except UmldiskError as error:
            if failure is not None:
                note(f"error: {failure.line()}")
            failure = error
    presenter.show(described, _lines)
    if failure is not None:
        raise failure


def _lines(descriptions: Sequence[Description]) -> Iterator[str]:
    for number, description in enumerate(descriptions):
        if number:
            yield ""
        yield f"{description.path}: {_title(description)}"
        yield from (f"  {line}" for line in table(_rows(description)))


def _title(description: Description) -> str:
    if description.cow is not None:
        return f"COW file, {description.cow.label} ({description.cow.dialect.value})"
    titles = {"swap": "Linux swap", "empty": "empty file", "blank": "blank disk", "unknown": "unknown contents"}
    return titles.get(description.kind.value, f"{description.kind.value} file system")


def _rows(description: Description) -> Iterator[Row]:
    yield "file size", f"{exact_bytes(description.file_bytes)}, {exact_bytes(description.allocated_bytes)} allocated"
    if description.cow is not None:
        yield from _cow_rows(description.cow)
    if description.contents is not None:
        yield from _contents_rows(description.contents, below_cow=description.cow is not None)
    for work in description.unfinished:
        yield "unfinished", work
    if description.holder is not None:
        holder = description.holder
        who = "somebody" if holder.pid is None else f"PID {holder.pid}"
        guest = "" if holder.umid is None else f", umid {holder.umid}"
        yield "in use", f"by {who}{guest}, {'for writing' if holder.exclusive else 'for reading'}"


def _cow_rows(cow: CowFacts) -> Iterator[Row]:
    geometry = cow.geometry
    yield "written by", cow.writer
    if cow.alternatives:
        yield "or else", ", ".join(f"{other.label} ({other.value})" for other in cow.alternatives)
    sectors = counted(geometry.sectors, "sector")
    yield "disk size", f"{exact_bytes(cow.size_bytes)}, {sectors} of {cow.sector_bytes} bytes"
    share = f" ({cow.changed_bytes / cow.size_bytes:.1%})" if cow.changed_bytes else ""
    yield "changed", f"{counted(cow.changed_sectors, 'sector')}, {exact_bytes(cow.changed_bytes)}{share}"
    yield from _layout_rows(cow, geometry)
    yield from _backing_rows(cow, cow.backing)
    if cow.merged is not None:
        yield "merge", cow.merged.value


def _layout_rows(cow: CowFacts, geometry: Geometry) -> Iterator[Row]:
    if cow.alignment_bytes is not None:
        yield "alignment", f"{cow.alignment_bytes} bytes"
    yield "bitmap", f"{geometry.bitmap_bytes} bytes at byte {geometry.bitmap_offset}"
    yield "data", f"at byte {geometry.data_offset}"
    without = geometry.sectors - geometry.mapped_sectors
    if without:
        yield "no bits for", f"the last {counted(without, 'sector')}"


def _backing_rows(cow: CowFacts, backing: BackingFacts) -> Iterator[Row]:
    from umldisk.cow.survey import utc

    named = os.fsdecode(cow.named_backing)
    yield "backing file", named
    if backing.path != named:
        yield "looked for at", backing.path
    yield "its state", backing.state.value + (f": {backing.trouble}" if backing.trouble else "")
    yield "its mtime", f"{utc(cow.mtime)} in the header"
    if backing.mtime is not None and backing.mtime != cow.mtime:
        yield "", f"{utc(backing.mtime)} now"
    if backing.size_bytes is not None and backing.size_bytes != cow.size_bytes:
        yield "its size", exact_bytes(backing.size_bytes)
    for path in cow.chain:
        yield "stands on COW", path


def _contents_rows(contents: Contents, *, below_cow: bool) -> Iterator[Row]:
    if below_cow:
        yield "contents", contents.kind.value
    if contents.ext is not None:
        yield from _ext_rows(contents.ext)
    if contents.swap is not None:
        yield from _swap_rows(contents.swap)


def _ext_rows(ext: ExtFacts) -> Iterator[Row]:
    yield "label", ext.label or "none"
    yield "UUID", ext.uuid
    free = exact_bytes(ext.free_blocks * ext.block_bytes)
    yield "length", f"{exact_bytes(ext.size_bytes)} in blocks of {ext.block_bytes} bytes, {free} free"
    yield "inodes", f"{ext.inodes}, {ext.free_inodes} free"
    state = "clean" if ext.clean else "not cleanly unmounted"
    yield "state", state + (", with errors" if ext.has_errors else "")
    if ext.mounted is not None:
        where = f" on {ext.last_mounted}" if ext.last_mounted else ""
        yield "last mounted", f"{ext.mounted}{where}"
    yield "features", " ".join(ext.features)


def _swap_rows(swap: SwapFacts) -> Iterator[Row]:
    yield "label", swap.label or "none"
    yield "UUID", swap.uuid
    yield "length", f"{exact_bytes(swap.size_bytes)}, {counted(swap.pages, 'page')} of {swap.page_bytes} bytes"
    if swap.bad_pages:
        yield "bad pages", str(swap.bad_pages)
