"""Long operations as rows: one file per lifecycle, steps that are short, named and safe to repeat."""
