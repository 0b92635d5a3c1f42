"""`python -m trainer` is the command `trainer`."""

from trainer.commands.app import main

main()
