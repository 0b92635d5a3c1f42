"""In: a folder of documents: text, Markdown, HTML, reStructuredText, PDF, Word and notebooks.

Out: a corpus of passages with their sources, and the names of duplicates and of files that cannot be read.
Touches: reads the folder; writes the corpus folder; converts documents in a child process.
"""
