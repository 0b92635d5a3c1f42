"""In: a pool or labels folder, and an annotator at a web browser.

Out: a labels folder whose judge is the annotator. Touches: the labels folder, and one port on 127.0.0.1.
"""
