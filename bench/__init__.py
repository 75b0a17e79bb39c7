"""Side-by-side measurements against peers, on demand: `python -m bench [name …]`. Nothing here asserts a time."""
