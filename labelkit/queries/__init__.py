"""In: a corpus, and a language model that writes queries or a log of queries that people typed.

Out: a BEIR folder with the queries that passed every check, and the others with reasons and counts.
Touches: the output folder and, beside it, the writer's journal and the judge's labels; calls engines.
"""
