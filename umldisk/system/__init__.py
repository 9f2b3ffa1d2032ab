"""What the rest needs of the operating system: files, extents, copying, locks, processes."""
