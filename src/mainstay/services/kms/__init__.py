"""AWS KMS: symmetric keys, aliases, grants and what is encrypted with them.

`api` has the operations, `use` what other services of Mainstay ask for.
"""
