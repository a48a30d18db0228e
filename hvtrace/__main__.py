"""`python -m hvtrace`."""

from hvtrace.cli.main import main

main()
