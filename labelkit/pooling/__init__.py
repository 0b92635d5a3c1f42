"""In: a corpus, queries, and retrievers or runs.

Out: a pool folder: the candidates worth judging, with the texts.
Touches: the pool folder, the cache of embeddings, models on disk.
"""
