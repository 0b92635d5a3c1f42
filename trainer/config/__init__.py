"""In: TOML files and flags.

Out: frozen, validated settings of a run.
Touches: the given files, which it reads.
"""
