"""Reading a guest's history from the store, and proving that it is the one that was written.

    store     1 ── 2 ── 3 ── 4 ── 5      each record holds the digest of the one before
    catalog   1    2    3                the digests of the records this host has seen: behind is fine, different is not
    anchor              3                one digest that somebody wrote down elsewhere

A record is vouched for by whatever holds its digest: the next record, the catalog, an anchor. What no longer fits is
named by the first record that is bad: missing, altered, in another's place, or without its end. Who can write to the
store can always write a new end, or a wholly new history; only the catalog, and an anchor where the store's master
cannot reach it, tell that from the real one. Times prove nothing: a clock may have been set back.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from umldisk.checkpoint.record import Record, digest_of, parse
from umldisk.checkpoint.store import GUESTS, RECORD_SUFFIX, Store, record_key
from umldisk.errors import DataError, HistoryError, NoInputError, UsageError

if TYPE_CHECKING:
    from umldisk.checkpoint.catalog import Catalog

Chained = list[tuple[Record, str]]
"""Records, oldest first, each with the digest of its file."""

ANCHOR_WORD = "umldisk-anchor"
_ANCHOR = re.compile(rf"{ANCHOR_WORD} (\S+) ([1-9][0-9]{{0,17}}) ([0-9a-f]{{64}})", re.ASCII)
_RECORD_FILE = re.compile(rf"([0-9]+){re.escape(RECORD_SUFFIX)}", re.ASCII)
_READERS = 16
_VERIFY = "see what is left with: umldisk checkpoint verify"


# -- reading -----------------------------------------------------------------------------------------------------------


def guests(store: Store) -> list[str]:
    """Return the names of all guests that have a record in the store, sorted."""
    found = set()
    for listed in store.list(GUESTS):
        name, slash, file = listed.key.removeprefix(GUESTS).partition("/")
        if slash and _RECORD_FILE.fullmatch(file):
            found.add(name)
    return sorted(found)


def load(store: Store, guest: str) -> Chained:
    """Return a guest's history from the store alone, without judging it.

    Raises HistoryError for the first record that cannot be read or is not what its name says.
    """
    return [(_placed(data, guest, number), digest_of(data)) for number, data in _files(store, guest)]


def _files(store: Store, guest: str) -> list[tuple[int, bytes]]:
    """Return number and contents of every record's file, in the order of the numbers."""
    from concurrent.futures import ThreadPoolExecutor

    prefix = f"{GUESTS}{guest}/"
    numbers = []
    for listed in store.list(prefix):
        if matched := _RECORD_FILE.fullmatch(listed.key.removeprefix(prefix)):
            number = int(matched[1][:19])
            if record_key(guest, number) != listed.key:
                raise HistoryError(f"a record of {guest} has a name that none can have", where=listed.key, hint=_VERIFY)
            numbers.append(number)
    numbers.sort()
    with ThreadPoolExecutor(_READERS) as pool:
        return list(zip(numbers, pool.map(lambda number: _read(store, guest, number), numbers), strict=True))


def _read(store: Store, guest: str, number: int) -> bytes:
    try:
        return store.get(record_key(guest, number))
    except NoInputError as error:
        raise _missing(guest, number, "it was listed") from error


def _placed(data: bytes, guest: str, number: int) -> Record:
    """Read a record that must be the guest's and have this number."""
    key = record_key(guest, number)
    try:
        record = parse(data, where=key)
    except DataError as error:
        raise HistoryError(
            f"record {number} of {guest} cannot be read", where=key, expected=error.expected, found=error.found
        ) from error
    if (record.guest, record.number) != (guest, number):
        found = f"record {record.number} of {record.guest}"
        raise HistoryError(f"record {number} of {guest} is another one", where=key, found=found)
    return record


def require_same(store: Store, guest: str, number: int, digest: str) -> None:
    """Refuse a store that does not have the catalog's last record; raises HistoryError."""
    key = record_key(guest, number)
    try:
        found = digest_of(store.get(key))
    except NoInputError as error:
        raise _missing(guest, number, "the catalog has it") from error
    if found != digest:
        what = f"record {number} of {guest} is not the one that the catalog has"
        raise HistoryError(what, where=key, expected=digest, found=found, hint=_VERIFY)


def following(store: Store, guest: str, number: int, digest: str) -> Iterator[tuple[Record, str]]:
    """Yield the records after one, as long as there are any."""
    while store.exists(key := record_key(guest, number := number + 1)):
        data = store.get(key)
        record = _placed(data, guest, number)
        if record.previous != digest:
            raise _not_following(guest, number, digest, record.previous)
        digest = digest_of(data)
        yield record, digest


def require_last(store: Store, guest: str, number: int) -> None:
    """Refuse a store that has later records, but not the next one; raises HistoryError."""
    prefix = f"{GUESTS}{guest}/"
    found = (_RECORD_FILE.fullmatch(listed.key.removeprefix(prefix)) for listed in store.list(prefix))
    later = [int(matched[1][:19]) for matched in found if matched and int(matched[1][:19]) > number]
    if later and number + 1 not in later:
        raise _missing(guest, number + 1, "later ones are there")


# -- proving -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Anchor:
    """What proves a guest's history up to a record, kept where who can write to the store cannot."""

    guest: str
    number: int
    digest: str

    def line(self) -> str:
        """Return the anchor as one line."""
        return f"{ANCHOR_WORD} {self.guest} {self.number} {self.digest}"


def parse_anchor(line: str) -> Anchor:
    """Read an anchor's line; raises UsageError when it is none."""
    matched = _ANCHOR.fullmatch(line.strip())
    if matched is None:
        raise UsageError(
            "not an anchor", expected=f"{ANCHOR_WORD} GUEST NUMBER DIGEST", found=line.strip()[:80] or "none"
        )
    return Anchor(matched[1], int(matched[2]), matched[3])


def anchor(store: Store, guest: str) -> str:
    """Return the line that proves a guest's whole history of today.

    Raises NoInputError when there is none, HistoryError when it is broken already.
    """
    chain = verify_chain(store, None, guest)
    if not chain:
        raise NoInputError(f"{guest} has no checkpoints", where=store.location)
    record, digest = chain[-1]
    return Anchor(guest, record.number, digest).line()


def verify_chain(store: Store, catalog: Catalog | None, guest: str, anchor: str | Anchor | None = None) -> Chained:
    """Prove a guest's history and return it.

    Raises HistoryError naming the first bad record, UsageError when the anchor is of another guest.
    """
    wanted = parse_anchor(anchor) if isinstance(anchor, str) else anchor
    if wanted is not None and wanted.guest != guest:
        raise UsageError("the anchor is another guest's", expected=guest, found=wanted.guest)
    known = dict(catalog.digests(guest)) if catalog is not None else {}
    files = _files(store, guest)
    _require_known(files, known, guest)
    chain = _linked(files, guest, _vouched(files, known, wanted))
    _require_sense(chain, guest)
    if wanted is not None:
        _require_anchored(chain, wanted)
    return chain


def _require_known(files: Sequence[tuple[int, bytes]], known: dict[int, str], guest: str) -> None:
    """Refuse a history that differs from what the catalog saw of it."""
    found = {number: digest_of(data) for number, data in files}
    for number, digest in known.items():
        if number not in found:
            raise _missing(guest, number, "the catalog has it")
        if found[number] != digest:
            raise HistoryError(
                f"record {number} of {guest} was altered, or the catalog was",
                where=record_key(guest, number),
                expected=digest,
                found=found[number],
            )


def _vouched(files: Sequence[tuple[int, bytes]], known: dict[int, str], wanted: Anchor | None) -> set[int]:
    """Return the numbers of the records that are what the catalog or the anchor says."""
    numbers = set(known)
    if wanted is not None:
        numbers |= {number for number, data in files if (number, digest_of(data)) == (wanted.number, wanted.digest)}
    return numbers


def _linked(files: Sequence[tuple[int, bytes]], guest: str, vouched: set[int]) -> Chained:
    """Read the records, each of which must follow the one before."""
    chain: Chained = []
    before = ""
    for expected, (number, data) in enumerate(files, start=1):
        if number != expected:
            raise _missing(guest, expected, f"record {number} is there")
        record, digest = _placed(data, guest, number), digest_of(data)
        if record.previous != before:
            if _is_earlier_bad(files, number, digest, vouched):
                raise _not_preceding(record, before)
            raise _not_following(guest, number, before, record.previous)
        chain.append((record, digest))
        before = digest
    return chain


def _is_earlier_bad(files: Sequence[tuple[int, bytes]], number: int, digest: str, vouched: set[int]) -> bool:
    """Say which is bad when a record does not follow the one before it.

    It is the later one when the one after that does not know it either, and the earlier one when nothing tells.
    """
    if {number - 1, number} & vouched:
        return number in vouched
    return number == len(files) or _names_as_previous(files, number, digest)


def _names_as_previous(files: Sequence[tuple[int, bytes]], number: int, digest: str) -> bool:
    """Whether the record after `number` holds this digest of it, or cannot tell because it is none itself."""
    try:
        return parse(files[number][1]).previous == digest
    except DataError:
        return True


def _not_preceding(record: Record, before: str) -> HistoryError:
    number = record.number - 1
    return HistoryError(
        f"record {number} of {record.guest} is not the one that record {record.number} was written after",
        where=record_key(record.guest, number),
        expected=record.previous,
        found=before,
    )


def _not_following(guest: str, number: int, before: str, previous: str) -> HistoryError:
    return HistoryError(
        f"record {number} of {guest} does not follow record {number - 1}",
        where=record_key(guest, number),
        expected=f"after {before or 'none'}",
        found=f"after {previous or 'none'}",
    )


def _missing(guest: str, number: int, why: str) -> HistoryError:
    return HistoryError(f"record {number} of {guest} is missing", where=record_key(guest, number), found=why)


def _require_sense(chain: Chained, guest: str) -> None:
    """Refuse records about checkpoints that there were not."""
    for record, about in _senseless(chain):
        raise HistoryError(
            f"record {record.number} of {guest} is about checkpoint {about}, which there is not",
            where=record_key(guest, record.number),
        )


def _senseless(chain: Chained) -> Iterator[tuple[Record, int]]:
    """Yield each record that names a checkpoint that there was not, or a parent of another drive."""
    drives: dict[int, str] = {}
    for record, _digest in chain:
        yield from ((record, number) for number in record.subjects if number not in drives)
        if record.taken is not None:
            parent = record.taken.parent
            if parent is not None and drives.get(parent) != record.taken.drive:
                yield record, parent
            drives[record.number] = record.taken.drive


def _require_anchored(chain: Chained, wanted: Anchor) -> None:
    if wanted.number > len(chain):
        raise _missing(wanted.guest, wanted.number, "the anchor names it")
    found = chain[wanted.number - 1][1]
    if found != wanted.digest:
        raise HistoryError(
            f"record {wanted.number} of {wanted.guest}, or one before it, is not the one that was anchored",
            where=record_key(wanted.guest, wanted.number),
            expected=wanted.digest,
            found=found,
        )


def sound_start(store: Store, guest: str) -> Chained:
    """Return the records before the first bad one."""
    chain: Chained = []
    with contextlib.suppress(HistoryError):
        for record, digest in following(store, guest, 0, ""):
            chain.append((record, digest))
    first = next(_senseless(chain), None)
    return chain if first is None else chain[: first[0].number - 1]
