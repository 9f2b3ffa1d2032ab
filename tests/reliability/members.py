"""Tar archives for tests, written just as they are described: nothing in them needs to make sense."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable

import zstandard

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}

Member = tuple[str, dict[str, object]]


def file(name: str, data: bytes = b"data", **fields: object) -> Member:
    """Describe a file; `fields` are those of TarInfo."""
    return name, {"type": tarfile.REGTYPE, "data": data, **fields}


def symlink(name: str, target: str) -> Member:
    """Describe a symlink."""
    return name, {"type": tarfile.SYMTYPE, "linkname": target}


def hard_link(name: str, target: str) -> Member:
    """Describe one more name."""
    return name, {"type": tarfile.LNKTYPE, "linkname": target}


def directory(name: str) -> Member:
    """Describe a directory."""
    return name, {"type": tarfile.DIRTYPE}


def device(name: str) -> Member:
    """Describe a block device."""
    return name, {"type": tarfile.BLKTYPE, "devmajor": 7, "devminor": 0}


def attribute(name: str, value: str) -> Member:
    """Describe a file with an extended attribute."""
    return file("f", pax_headers={f"SCHILY.xattr.{name}": value})


def sparse(name: str, size_bytes: int, data: bytes = b"data") -> Member:
    """Describe a sparse file (pax 0.1) that has its data at the beginning."""
    headers = {"GNU.sparse.size": str(size_bytes), "GNU.sparse.map": f"0,{len(data)}"}
    return file(name, data, pax_headers=headers)


def archive(*members: Member) -> bytes:
    """Return a pax archive of these members, names and links just as they are given."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, fields in members:
            info, data = tarfile.TarInfo(name), b""
            for field, value in fields.items():
                if field == "data":
                    assert isinstance(value, bytes)
                    data, info.size = value, len(value)
                else:
                    setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the header of a member whose data stands elsewhere, or nowhere."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def chain(*, avoid: int) -> str:
    """Return a path of 4079 bytes, one letter a name but for one of two, with no parent of `avoid` bytes."""
    path = ""
    while len(path) < 4078:
        path += "/aa" if len(path) + 2 == avoid else "/a"
    return path


def sample() -> bytes:
    """Return a good archive: some noise, a directory, a long name."""
    noise = random.Random(1).randbytes(3000)
    return archive(file("etc/motd", noise), directory("usr"), file("usr/long" + "n" * 200, noise[:700]))
