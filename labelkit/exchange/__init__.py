"""In: datasets of ours, or folders in the format of another tool.

Out: the one as the other, and datasets on the Hugging Face Hub.
Touches: export folders and the Hub.
"""
