"""In: folders of documents, and files of passages, queries, grades and runs in the usual formats.

Out: records, or an error with `file:line` for a fault; passages of documents.
Touches: reads the given files; `corpus`, `split` and `tidy` write collections.
"""
