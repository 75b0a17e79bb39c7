"""What several kinds of tests share: one class per real thing, with context managers for what is done to it."""
