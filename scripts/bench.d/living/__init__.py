"""How long a running guest stands still while a checkpoint is taken of it."""
