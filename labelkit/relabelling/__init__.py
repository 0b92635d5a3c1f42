"""In: a training set, as a dataset folder or as files of another tool, and a judge or a cascade of two judges.

Out: the same training set with corrected labels, and the old labels in a table. Touches: the output and, beside it, the
pool and the labels of its pairs; `judging` sends the requests.
"""
