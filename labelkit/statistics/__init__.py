"""In: arrays of values by query.

Out: means, intervals and p-values.
Touches: nothing but memory.
"""
