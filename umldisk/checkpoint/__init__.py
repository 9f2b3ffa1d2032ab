"""Checkpoints: what a drive held on a certain night, kept as chunks, and everything that is known of it."""
