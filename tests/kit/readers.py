"""A disk for parsers: bytes in memory that read like a file."""


class BytesReader:
    """Bytes as a disk; reading past the end gives less."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]
