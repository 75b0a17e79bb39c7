"""The PostgreSQL frontend/backend protocol 3, sans-I/O: bytes in, values out, and the other way round."""
