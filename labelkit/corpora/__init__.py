"""In: files of passages, queries, grades and runs in the usual formats.

Out: records, or an error with `file:line` for a fault.
Touches: reads the given files; `tidy` writes a copy.
"""
