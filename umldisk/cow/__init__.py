"""UML copy-on-write files: formats, merged view, merge, difference, repair. Knows nothing of guests."""
