"""Amazon RDS. `api.operations` is the table of everything built; the other modules hold the operations."""
