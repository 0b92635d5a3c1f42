"""In: a dataset, objectives, regimes of labels, seeds.

Out: the results of every run, and a report that compares them.
Touches: the output folder.
"""
