"""In: arrays of values by query.

Out: estimates with confidence intervals, p-values, numbers of queries that a test needs; charts. Touches: nothing but
memory.
"""
