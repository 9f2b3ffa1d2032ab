"""An archive as one stream of bytes, whatever it is packed with and wherever it comes from.

    file, FIFO or stdin ──▶ _Stored ──▶ sha256 of every byte as it is stored, in a thread beside
                               │
                               └──▶ nothing | gunzip | bunzip2 | unxz | unzstd ──▶ Archive.read, .peek, .skip

Names say nothing: the first bytes decide. A file may be several packed members one after the other, as pigz, pbzip2
and `cat` make them. After the last member zeros are taken for padding of a tape or of a disk; anything else that is
no member is damage. That is stricter than gzip, which warns of trailing garbage and goes on: here nobody reads
warnings, and half a download with an error page behind it must not become a guest.

Reading takes constant memory, however well the stream was packed. Every decoder is asked for at most a chunk at a
time; python-zstandard cannot be asked so without hiding where a frame ends (its reader takes a cut frame for a
whole one), and gets its input in slices instead: 4 bytes of a zstd frame can mean a block of 128 KiB, so a slice of
512 never means more than 16 MiB. Dictionaries of xz and windows of zstd over 128 MiB are refused.

The digest covers the whole file, and is known once the end was read. The check sums of the packed formats stand
behind their data, so that whoever needs to know that all was well has to read to the end too: `drain` does both.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

from umldisk.build.aside import Aside
from umldisk.errors import DataError, NoInputError, from_os_error

STDIN = "-"
CHUNK_BYTES = 1 << 20
"""What is read, unpacked and handed on at a time."""
_PACKED_CHUNK_BYTES = 1 << 17
_ZSTD_SLICE_BYTES = 512
_DICTIONARY_BYTES = 128 << 20

_BZ2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
_MAGIC_BYTES = 10


class _Decoder(Protocol):
    """One packed member being unpacked, in the manner of bz2.BZ2Decompressor."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Archive:
    """A stream of bytes, unpacked; a context manager that owns what it opened.

    `source` is what the user called it, `name` what messages call it, `compression` "", gz, bz2, xz or zst,
    `position` how many unpacked bytes were read. Reading raises DataError when packed data is cut or damaged and
    StorageError when the operating system cannot read.
    """

    def __init__(self, source: str, fd: int) -> None:
        self.source = source
        self.name = "standard input" if source == STDIN else source
        self.position = 0
        self._stored = _Stored(self.name, fd)
        self._buffer, self._at = b"", 0
        try:
            self.compression = detect_compression(self._stored.peek(_MAGIC_BYTES))
        except BaseException:
            self.close()
            raise
        self._chunks = _unpack(self._stored, self.compression) if self.compression else self._stored.chunks(CHUNK_BYTES)

    @property
    def sha256(self) -> str | None:
        """The hex digest of the file as it is stored, or None before its end was read."""
        return self._stored.sha256() if self._stored.ended else None

    def read(self, length: int) -> bytes:
        """Return the next `length` bytes; less only at the end."""
        data = self._buffer[self._at : self._at + length]
        self._at += len(data)
        if len(data) < length:
            data = self._read_on(data, length)
        self.position += len(data)
        return data

    def _read_on(self, data: bytes, length: int) -> bytes:
        parts, missing = [data], length - len(data)
        while missing and self._next_chunk():
            parts.append(self._buffer[:missing])
            self._at = len(parts[-1])
            missing -= self._at
        return b"".join(parts)

    def _next_chunk(self) -> bool:
        self._buffer, self._at = next(self._chunks, b""), 0
        return bool(self._buffer)

    def peek(self, length: int) -> bytes:
        """Return what `read` would, and leave it unread."""
        parts = [self._buffer[self._at :]]
        while sum(map(len, parts)) < length and (more := next(self._chunks, b"")):
            parts.append(more)
        self._buffer, self._at = b"".join(parts), 0
        return self._buffer[:length]

    def skip(self, length: int) -> int:
        """Pass over `length` bytes and return how many there were; less only at the end."""
        missing = length
        while (here := len(self._buffer) - self._at) < missing:
            missing -= here
            if not self._next_chunk():
                self.position += length - missing
                return length - missing
        self._at += missing
        self.position += length
        return length

    def drain(self) -> None:
        """Read to the end, so that the digest is complete and the last check sum was compared."""
        while self._buffer:
            self.skip(len(self._buffer) - self._at + 1)
        for chunk in self._chunks:
            self.position += len(chunk)

    def close(self) -> None:
        """Give up the file."""
        self._stored.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_archive(source: str) -> Archive:
    """Open a regular file, block device or FIFO, or the standard input when `source` is "-".

    A FIFO waits for its writer. Raises NoInputError when there is nothing of the kind or it may not be read.
    """
    if source == STDIN:
        return Archive(source, _open_stdin())
    try:
        mode = os.stat(source).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode)):
            found = "a directory" if stat.S_ISDIR(mode) else "something else"
            raise NoInputError("not an archive", where=source, expected="a regular file or a FIFO", found=found)
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NoInputError(f"cannot open: {reason}", where=source) from error
    return Archive(source, fd)


def _open_stdin() -> int:
    try:
        fd = os.dup(0)
    except OSError as error:
        raise NoInputError(f"cannot read the standard input: {error.strerror}") from error
    found = "a directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "a terminal" if os.isatty(fd) else None
    if found:
        os.close(fd)
        raise NoInputError("not an archive", where="standard input", expected="a file or a pipe", found=found)
    return fd


def detect_compression(start: bytes) -> str:
    """Return gz, bz2, xz or zst by the first ten bytes of a file, or "" for everything else."""
    if start[:3] == b"\x1f\x8b\x08":
        return "gz"
    if start[:3] == b"BZh" and start[4:10] in _BZ2_BLOCKS:
        return "bz2"
    if start[:6] == b"\xfd7zXZ\0":
        return "xz"
    skippable = start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50  # pzstd begins with such a frame
    return "zst" if start[:4] == b"\x28\xb5\x2f\xfd" or skippable else ""


class _Stored:
    """The file as it is stored: bytes in order, digested as they pass."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.position = 0
        self.ended = False
        self._fd = fd
        self._ahead = b""
        self._digest = hashlib.sha256()
        self._aside = Aside()

    def peek(self, length: int) -> bytes:
        """Return the first bytes of the file; less than `length` only when it has no more."""
        while len(self._ahead) < length and (more := self._read(_PACKED_CHUNK_BYTES)):
            self._ahead += more
        return self._ahead[:length]

    def read(self, length: int) -> bytes:
        """Return some bytes, at most `length` or what was peeked at; none at the end."""
        data, self._ahead = self._ahead or self._read(length), b""
        self.position += len(data)
        return data

    def _read(self, length: int) -> bytes:
        try:
            data = os.read(self._fd, length)
        except OSError as error:
            raise from_os_error(error, "read", self.name) from error
        self._aside.do(self._digest.update, data)
        self.ended = not data
        return data

    def chunks(self, length: int) -> Iterator[bytes]:
        """Yield all the rest as it is."""
        while data := self.read(length):
            yield data

    def sha256(self) -> str:
        """Return the hex digest of all that was read."""
        self._aside.wait()
        return self._digest.hexdigest()

    def close(self) -> None:
        self._aside.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _unpack(stored: _Stored, compression: str) -> Iterator[bytes]:
    start, failures = _codec(compression)
    data = stored.read(_PACKED_CHUNK_BYTES)
    while data:
        decoder = start()
        try:
            yield from _unpack_member(stored, decoder, data)
        except failures as error:
            where = f"{stored.name}, before byte {stored.position}"
            raise DataError(f"the {compression} data is damaged", where=where, found=error) from error
        if not decoder.eof:
            where = f"{stored.name}, byte {stored.position}"
            raise DataError(f"the {compression} data is cut short", where=where, found="the end of the file")
        data = _next_member(stored, decoder.unused_data)


def _unpack_member(stored: _Stored, decoder: _Decoder, data: bytes) -> Iterator[bytes]:
    """Yield what one member holds; the decoder is not at its end afterwards when the file is."""
    while True:
        if unpacked := decoder.decompress(data, CHUNK_BYTES):
            yield unpacked
        if decoder.eof:
            return
        data = b""
        if decoder.needs_input and not (data := stored.read(_PACKED_CHUNK_BYTES)):
            return


def _next_member(stored: _Stored, rest: bytes) -> bytes:
    """Return what stands behind a member and its padding; nothing at the end."""
    while not (rest := rest.lstrip(b"\0")):
        rest = stored.read(_PACKED_CHUNK_BYTES)
        if not rest:
            return b""
    return rest


def _codec(compression: str) -> tuple[Callable[[], _Decoder], tuple[type[Exception], ...]]:
    """Return what makes decoders for `compression`, and what they raise for bad data."""
    if compression == "gz":
        return _Gunzip, (zlib.error,)
    if compression == "bz2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError)
    if compression == "xz":
        import lzma

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DICTIONARY_BYTES), (lzma.LZMAError,)
    import zstandard

    return _Unzstd, (zstandard.ZstdError,)


class _Gunzip:
    """zlib's decoder, which leaves to its caller what it has not consumed."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Unzstd:
    """A decoder of one zstd frame that is fed in slices, because it unpacks at once all that it is given."""

    def __init__(self) -> None:
        import zstandard

        self._inner = zstandard.ZstdDecompressor(max_window_size=_DICTIONARY_BYTES).decompressobj()
        self._data, self._at = b"", 0

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._at >= len(self._data)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data + self._data[self._at :]

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._data, self._at = self._data[self._at :] + data, 0
        parts, size = [], 0
        while size < max_length and not self.needs_input and not self._inner.eof:
            parts.append(self._inner.decompress(self._data[self._at : self._at + _ZSTD_SLICE_BYTES]))
            self._at += _ZSTD_SLICE_BYTES
            size += len(parts[-1])
        return b"".join(parts)
