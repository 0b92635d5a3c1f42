"""In: a pool, a prompt, an engine.

Out: a labels folder: a judgement or a failure for every pair, and the journal of replies behind them.
Touches: the labels folder and the reply cache; what costs money is sent from here alone.
"""
