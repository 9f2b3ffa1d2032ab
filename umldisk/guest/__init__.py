"""The life of a guest: how it is started, spoken to, watched, held still and ended."""
