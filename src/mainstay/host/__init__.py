"""Effects on one machine, each behind a small interface with a simulated twin: clock, processes, files, RPC."""
