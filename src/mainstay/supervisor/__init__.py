"""Keeps the three processes of a host running. Dies and comes back like any of them: they start it again."""
