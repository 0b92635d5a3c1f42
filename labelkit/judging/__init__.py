"""In: a pool, a prompt, an engine.

Out: a labels folder: a grade, a score or a failure for every pair, and the journal of the replies.
Touches: the labels folder and the reply cache; no other room sends requests that cost money.
"""
