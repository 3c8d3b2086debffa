"""`python -m ganseg`: the command `ganseg`."""

from ganseg.cli import main

main()
