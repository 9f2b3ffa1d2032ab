"""Trying whether a guest comes back from its checkpoints, without touching the guest."""
