"""Checkpoints of disks, beside backups of the same disks by restic and borg."""
