"""`python -m edgeserve`: the `edgeserve` command, where the script is not on the path."""

from edgeserve.cli import main

main()
