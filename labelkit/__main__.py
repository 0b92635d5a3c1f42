"""Run the command `labelkit` by `python -m labelkit`."""

from labelkit.commands.app import main

main()
