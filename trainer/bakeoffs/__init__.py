"""In: a dataset, objectives, label regimes, seeds.

Out: the results of every run, and a report that compares them.
Touches: the output folder.
"""
