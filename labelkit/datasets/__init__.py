"""In: human grades and labels folders of a collection.

Out: a dataset folder with one label per pair, its provenance, its card and its audit. Touches: the dataset folder.
"""
