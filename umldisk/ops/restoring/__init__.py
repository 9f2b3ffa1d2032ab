"""Getting a guest back after it was broken into, and keeping what the intruder left."""
