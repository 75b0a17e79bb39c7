"""PostgreSQL: everything that knows its binaries, its configuration syntax and its SQL."""
