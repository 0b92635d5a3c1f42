"""`python -m labelkit` is the command `labelkit`."""

from labelkit.commands.app import main

main()
