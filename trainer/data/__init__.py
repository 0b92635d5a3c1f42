"""In: a dataset folder, and a pool folder where hard negatives come from one.

Out: groups of an epoch, in an order that a seed decides.
Touches: the cache of laid-out datasets and tokens.
"""
