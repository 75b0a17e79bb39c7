"""MySQL: everything that knows its binaries, its variables and its SQL."""
