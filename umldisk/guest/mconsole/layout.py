"""The bytes of mconsole's packets; nothing here gives them meaning.

Source: struct mconsole_request and mconsole_reply in the kernel's arch/um/include/shared/mconsole.h. Both ends run on
one machine, so the numbers have its byte order. Old kernels took requests without a header (version 0); none has
answered one for twenty years.

    request     magic version length data[length]              a kernel takes at most 511 bytes of data
    reply       error more length data[length]                 the data ends with a NUL, which `length` counts
"""

from __future__ import annotations

from construct import Bytes, ConstructError, GreedyBytes, Int32sn, Int32un, Struct, this

MAGIC = 0xCAFEBABE
VERSION = 2
DATA_BYTES = 512
"""The room for data in either packet, a NUL included."""

REQUEST = Struct("magic" / Int32un, "version" / Int32un, "length" / Int32un, "data" / Bytes(this.length))

REPLY_HEADER_BYTES = 12
REPLY = Struct("error" / Int32sn, "more" / Int32un, "length" / Int32un, "data" / GreedyBytes)

LayoutError = ConstructError
