"""In: paths and addresses of folders and files.

Out: checked manifests, tables, labels and datasets; SQLite files; credentials.
Touches: the disk, object stores, and keys in the environment.
"""
