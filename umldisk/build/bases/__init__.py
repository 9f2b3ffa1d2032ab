"""Where a guest's files come from: one module a source, all giving the same stream of entries."""
