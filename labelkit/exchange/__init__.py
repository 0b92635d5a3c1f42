"""In: datasets of labelkit, or files in the format of another tool.

Out: each converted to the other, and datasets on the Hugging Face Hub. Touches: export folders and the Hub.
"""
