"""Disks of User-mode Linux guests: COW files, building, merging and checkpoints.

Nothing is imported here, so that `umldisk --version` stays quick.
"""

__version__ = "0.1.0"
