"""`python -m umldisk` is the console script by another way."""

from umldisk.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
