"""Turns a multi-positive dataset into a dense retriever.

dataset -data-> groups of an epoch -batch-> unique passages, ragged positives
        -contrast-> scores -objectives-> loss          (fit: the run)          -evaluate-> metrics
"""
