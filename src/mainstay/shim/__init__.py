"""One tiny process per engine process: its parent, subreaper and witness. Standard library only.

See `__main__.py`; the agent's side of the conversation is `mainstay.host.shims`.
"""
