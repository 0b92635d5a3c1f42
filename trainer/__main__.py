"""Run the command `trainer` as `python -m trainer`."""

from trainer.commands.app import main

main()
