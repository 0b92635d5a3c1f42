"""Beginning of a script that kills itself when a run has stored a number of replies: `argv[3]`."""

KILLED_AFTER_REPLIES = """
import os, signal, sys
from labelkit.engines import scripted
from labelkit.judging import journal
from labelkit.judging.options import AnnotateOptions
scripted.BLOCK = 1
append, left = journal.Journal.append, int(sys.argv[3])
def counted(self, arrivals):
    global left
    kept = append(self, arrivals)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return kept
journal.Journal.append = counted
"""
