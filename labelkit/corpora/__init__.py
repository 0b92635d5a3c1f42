"""In: files of passages, queries, grades and runs, as people have them.

Out: records with a `file:line` for every fault.
Touches: the files that it is given, to read; `tidy` writes a copy.
"""
