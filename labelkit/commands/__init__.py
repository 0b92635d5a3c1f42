"""In: the command line.

Out: a call of one room; tables and JSON on standard output, messages for people on standard error. Touches: the
terminal; nothing imports this room.
"""
