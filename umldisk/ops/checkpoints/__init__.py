"""Whole operations with checkpoints: taking, listing, comparing, exporting, verifying, pruning them."""
