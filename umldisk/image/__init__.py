"""One disk image: the drives of a guest, ext file systems, swap, and telling which a file is."""
