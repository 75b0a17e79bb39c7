"""The agent: one per host. Makes the host agree with the node specs it was given, and reports what it sees.

It keeps its last specs on disk, so it works on without the control plane, and finds running engines again through
their shims, so its own death disturbs nobody.
"""
