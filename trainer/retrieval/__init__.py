"""In: a model and a collection with graded passages.

Out: rankings, measures per query, and tests of differences between models.
Touches: the cache of embeddings.
"""
