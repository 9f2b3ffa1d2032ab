"""The binary indexes of kernel modules, modules.dep.bin and its like, which kmod reads in place of the texts.

    u32 magic 0xb007f457 │ u32 version │ u32 root │ nodes ...        numbers have their most significant byte first

    node, its parts there or not by three bits of the number that points at it:
      0x80000000  prefix, ended by a NUL        what all keys from here on go on with
      0x20000000  first byte, last byte, u32 pointers to the children for every byte from first to last, 0 for none
      0x40000000  u32 count, then for each value a u32 priority and the value, ended by a NUL

It is a radix tree: the prefixes and the bytes between them, from the root down to a node with values, spell its key.
Children stand before their parents in the file, the root last, which never has a prefix. The meaning of the fields is
told in libkmod/libkmod-index.c of kmod.

Reading gives back every key with its values in order, and writing them gives the same bytes again; so the index of a
part of the modules is the whole index read, filtered and written. Making one from nothing, which is depmod's work, is
left out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from umldisk.errors import DataError

Values = tuple[tuple[int, bytes], ...]
"""What one key has: priorities and texts."""
Index = dict[bytes, Values]

_U32 = struct.Struct(">I")
_HEADER = struct.Struct(">III")
_MAGIC = 0xB007F457
_VERSION = 0x0002_0001
_PREFIX, _VALUES, _CHILDREN = 0x8000_0000, 0x4000_0000, 0x2000_0000
_OFFSET = 0x0FFF_FFFF


@dataclass(slots=True)
class _Cursor:
    data: bytes
    position: int

    def u32(self) -> int:
        (number,) = _U32.unpack_from(self.data, self.position)
        self.position += _U32.size
        return int(number)

    def text(self) -> bytes:
        end = self.data.index(b"\0", self.position)
        found = self.data[self.position : end]
        self.position = end + 1
        return found


def read_index(data: bytes, *, where: str) -> Index:
    """Return all that an index holds; raises DataError when `data` is none."""
    try:
        magic, version, root = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            raise DataError("not an index of modules that we know", where=where, found=f"{magic:#x}, {version:#x}")
        index: Index = {}
        _read_node(data, root, b"", index)
    except (struct.error, ValueError, IndexError, RecursionError) as error:
        raise DataError("the index of modules is damaged", where=where) from error
    return index


def _read_node(data: bytes, pointer: int, key: bytes, index: Index) -> None:
    cursor = _Cursor(data, pointer & _OFFSET)
    if pointer & _PREFIX:
        key += cursor.text()
    if pointer & _CHILDREN:
        first, last = data[cursor.position], data[cursor.position + 1]
        cursor.position += 2
        for byte in range(first, last + 1):
            if child := cursor.u32():
                _read_node(data, child, key + bytes([byte]), index)
    if pointer & _VALUES:
        index[key] = tuple((cursor.u32(), cursor.text()) for _ in range(cursor.u32()))


def write_index(index: Mapping[bytes, Values]) -> bytes:
    """Return the bytes of an index; an empty one has a root with nothing in it."""
    out = bytearray(_HEADER.size)
    root = _write_node(sorted(index.items()), b"", 0, out)
    _HEADER.pack_into(out, 0, _MAGIC, _VERSION, root)
    return bytes(out)


def _write_node(items: Sequence[tuple[bytes, Values]], prefix: bytes, end: int, out: bytearray) -> int:
    """Append the node of `items`, sorted, whose keys agree up to `end`, where `prefix` ends; return its pointer."""
    children: dict[int, list[tuple[bytes, Values]]] = {}
    for key, values in items:
        if len(key) > end:
            children.setdefault(key[end], []).append((key, values))
    pointers = {byte: _write_child(inside, end + 1, out) for byte, inside in children.items()}
    pointer = len(out)
    if prefix:
        out += prefix + b"\0"
        pointer |= _PREFIX
    if pointers:
        first, last = min(pointers), max(pointers)
        out += bytes([first, last])
        out += b"".join(_U32.pack(pointers.get(byte, 0)) for byte in range(first, last + 1))
        pointer |= _CHILDREN
    if items and len(items[0][0]) == end:
        values = items[0][1]
        out += _U32.pack(len(values)) + b"".join(_U32.pack(priority) + text + b"\0" for priority, text in values)
        pointer |= _VALUES
    return pointer


def _write_child(items: Sequence[tuple[bytes, Values]], start: int, out: bytearray) -> int:
    """Append the node of `items`, whose prefix begins at `start`, as long as all agree."""
    first, last = items[0][0], items[-1][0]
    end = start
    while end < len(first) and first[start : end + 1] == last[start : end + 1]:
        end += 1
    return _write_node(items, first[start:end], end, out)
