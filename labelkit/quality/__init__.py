"""In: labels folders, and grades that people gave.

Out: agreement, calibration, biases, attacks and a report: numbers about labels, never labels.
Touches: files that it writes anew; `cascade` and `redteam` also ask engines.
"""
