"""The only code that knows binaries, configuration syntax and replication SQL: one folder per engine, one interface."""
