"""In: TOML files and flags.

Out: frozen, checked settings of a run.
Touches: the files that it is given, to read.
"""
