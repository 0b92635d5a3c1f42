"""In: a pool or labels folder, and a person at a browser.

Out: a labels folder whose judge is that person.
Touches: the labels folder, and one port of the loopback address.
"""
