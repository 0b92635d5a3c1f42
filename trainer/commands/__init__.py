"""In: the command line.

Out: a call of one room, its tables and JSON on standard output, words for people on standard error.
Touches: the terminal; nothing imports this room.
"""
