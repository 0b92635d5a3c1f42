"""In: a dataset folder, and optionally a pool folder with unjudged passages for hard negatives.

Out: the groups of an epoch, in an order determined by a seed.
Touches: the cache of memory-mapped datasets and tokens.
"""
