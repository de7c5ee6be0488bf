"""`python -m edgeserve.cli`: the same command, where the script is not on the path."""

from edgeserve.cli import main

main()
