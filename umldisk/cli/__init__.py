"""The command line: parses, calls one library function, presents its result. click and tqdm live here only."""
