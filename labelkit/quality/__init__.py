"""In: labels folders, and human grades.

Out: agreement, calibration, biases, attack results and a report. Labels are never changed. Touches: new files;
`cascade`, `redteam` and `tune` also call engines.
"""
