"""The backup repository: files, bytes, keys and object storage. It refuses to know what wrote the files.

docs/backup-format.md is the format; docs/invariants.md names what always holds.
"""
