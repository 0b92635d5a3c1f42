"""In: a model and a collection with grades.

Out: rankings, measures for each query, and tests of differences.
Touches: the cache of embeddings.
"""
