"""Frozen records and enums, named as AWS names them.

Guarantees: no I/O, no clock, no randomness; every record is immutable and carries its own storage identity.
Refuses to know: how records are stored, who may see them, how they look on the wire.
"""
