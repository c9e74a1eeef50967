"""`python -m explorer.cli` is the command `rowhit`."""

from explorer.cli.app import main

main()
