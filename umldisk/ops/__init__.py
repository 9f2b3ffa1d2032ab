"""Whole operations, each joining several of the packages below."""
