"""The bytes of casync's index of a block device (.caibx); nothing here gives them meaning.

    0   header    48 bytes   chunk sizes, which digest
    48  table     16 bytes, then 40 bytes a chunk: where it ends, what it is called
        tail      40 bytes

All numbers are little-endian and 64 bits long. Source: src/caformat.h of casync (CaFormatIndex, CaFormatTable,
CaFormatTableTail). Items are as many as the file is long, and read with struct: an index of 16 GiB has 262,144.
"""

from __future__ import annotations

import struct
from typing import Any

from construct import Construct, ConstructError, Int64ul
from construct import Struct as Fields

INDEX_MAGIC = 0x96824D9C7B129FF9
TABLE_MAGIC = 0xE75B9E112F17417D
TAIL_MAGIC = 0x4B4F050E5549ECD1
OPEN_ENDED = (1 << 64) - 1
FEATURE_SHA512_256 = 0x2000000000000000

HEADER: Construct[Any, Any] = Fields(
    "size" / Int64ul,
    "magic" / Int64ul,
    "feature_flags" / Int64ul,
    "chunk_size_min" / Int64ul,
    "chunk_size_avg" / Int64ul,
    "chunk_size_max" / Int64ul,
    "table_size" / Int64ul,
    "table_magic" / Int64ul,
)
"""The index's header, whose `size` counts its first six fields, and the first two of the table."""

TAIL: Construct[Any, Any] = Fields(
    "zero_offset" / Int64ul,
    "zero_size" / Int64ul,
    "index_offset" / Int64ul,
    "table_size" / Int64ul,
    "magic" / Int64ul,
)
"""An item that ends nowhere: `index_offset` is 48, `table_size` is of the table with head and tail."""

INDEX_HEADER_BYTES = 48
TABLE_HEADER_BYTES = 16
ITEM = struct.Struct("<Q32s")
"""Where a chunk ends, counted from the start of the disk, and its name."""

LayoutError = ConstructError
