"""In: folders, files and addresses, as a command names them.

Out: checked manifests, tables, labels and datasets; SQLite files; credentials.
Touches: the disk, object stores, and the environment's keys.
"""
