"""The files that make a base a guest: rendered from what the guest is to be and what the base turned out to be."""
