"""The values of a rich tree: names, targets, times, owners, modes, devices and attributes that are hard to keep."""

from __future__ import annotations

import errno
import struct

CORNERS = (b"", b"var", b"home", b"srv")
NAMES = (
    b"n" * 255,
    "é".encode() * 127 + b"x",
    b"\xff\xfe latin \xe9",
    b"\xc3",
    b"\xed\xb2\x80",
    b"new\nline",
    b"\n",
    b"cr\r",
    b"tab\there",
    b'double"quote',
    b'"all"',
    b"single'quote",
    b"back\\slash",
    b"octal\\012",
    b"end\\",
    b"-rf",
    b"--help",
    b" blanks ",
    b"...",
    b"..two",
    b"*?[a-z]{b,c}",
    b"$HOME `id`; #|&<>",
    b"<12>",
    b"\x01\x7f",
    b"%s%n%41",
    b"name=value",
    b".wh.white",
    b"@LongLink",
    b"lost+found",
)
TARGETS = (
    b"x",
    b"../names/" + b"n" * 255,
    b"/nothing/at/all",
    b"t" * 59,
    b"t" * 60,
    b"t" * 61,
    b"/" + b"u" * 999,
    b"../" * 400,
    b"v" * 4095,
    b"\xff\n\"'\\",
    b".",
    b"/",
    b"-",
)
_SECOND = 1_000_000_000
TIMES_NS = (
    1_234_567_890_123_456_789,
    0,
    -1,
    -_SECOND,
    -(1 << 31) * _SECOND,
    -1_000_000_000 * _SECOND + 999_999_999,
    ((1 << 31) - 1) * _SECOND + 1,
    (1 << 31) * _SECOND,
    ((1 << 32) - 1) * _SECOND + 987_654_321,
    (1 << 32) * _SECOND + 1,
    ((1 << 33) + 5) * _SECOND + 500_000_000,
    ((1 << 34) - (1 << 31) - 1) * _SECOND,
    951_782_400 * _SECOND,
)
PAST_TIMES_NS = (1_234_567_890_123_456_789, 0, -1, -1_000_000_000 * _SECOND + 999_999_999, 951_782_400 * _SECOND)
OWNERS = ((0, 0), (1, 2), (65_535, 65_536), (100_000, 65_534), (0xFFFF_FFFE, 0x8000_0000))
MODES = (0o000, 0o111, 0o222, 0o400, 0o644, 0o755, 0o1644, 0o2755, 0o2644, 0o4755, 0o4000, 0o6711, 0o7777)
DIRECTORY_MODES = (0o000, 0o500, 0o700, 0o1777, 0o2775, 0o3770, 0o7777)
DEVICES = ((0, 0), (1, 3), (4, 255), (8, 256), (255, 255), (256, 0), (259, 0xFFFFF), (0xFFF, 0), (0xFFF, 0xFFFFF))
PAGE = 4096

_ACL_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFF_FFFF
CAPABILITY = struct.pack("<IIIII", 0x0200_0001, 0x3000, 0, 0, 0)
CAPABILITY_OF_NAMESPACE = struct.pack("<IIIIII", 0x0300_0000, 0x2000, 0x400, 1, 0, 100_000)
NOT_STORED = (errno.EOPNOTSUPP, errno.ENOSPC, errno.EINVAL, errno.EPERM)


def attribute_sets() -> dict[bytes, list[tuple[bytes, bytes]]]:
    """Return the user's attributes of several files: alone in the inode, in a block, mixed, of odd names and values."""
    return {
        b"small": [(b"user.s", b"s")],
        b"empty value": [(b"user.nothing", b""), (b"user.z", b"z")],
        b"binary": [(b"user.b", bytes(range(64)))],
        b"large": [(b"user.large", b"L\n\0" * 1000)],
        b"largest": [(b"user.l", b"l" * 3900)],
        b"mixed": [(b"user.a", b"a"), (b"user.big", b"\xff" * 2500), (b"user.c", b"c" * 30)],
        b"many": [(b"user.number-%02d" % count, b"%d" % count * count) for count in range(40)],
        b"long name": [(b"user." + b"k" * 250, b"v")],
        b"odd names": [
            (b"user.with blank", b"1"),
            (b'user.a "quote"', b"2"),
            (b"user.back\\slash", b"3"),
            (b"user.=is%41", b"4"),
            (b"user.caf\xc3\xa9\xff", b"5"),
            (b"user.<12>", b"6"),
        ],
    }


def access_list(
    user: int,
    users: list[tuple[int, int]],
    groups: list[tuple[int, int]],
    group: int,
    mask: int | None,
    other: int,
) -> bytes:
    """Return an access list as setxattr(2) takes it (linux/posix_acl_xattr.h); `users` and `groups` are ids, rights."""
    rows = [(0x01, user, _NO_ID), *((0x02, rights, number) for number, rights in sorted(users))]
    rows += [(0x04, group, _NO_ID), *((0x08, rights, number) for number, rights in sorted(groups))]
    rows += [(0x10, mask, _NO_ID)] if mask is not None else []
    rows.append((0x20, other, _NO_ID))
    return struct.pack("<I", 2) + b"".join(_ACL_ENTRY.pack(*row) for row in rows)
