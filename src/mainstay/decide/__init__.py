"""Pure decisions: frozen values in, a value out. No I/O, no clock, no randomness, no waiting."""
