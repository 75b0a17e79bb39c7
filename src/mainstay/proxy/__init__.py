"""The RDS Proxy process: many client connections on few server connections, for every proxy of this host.

`session.py` (clients) and `server.py` (server connections) carry the bytes; `pool.py` decides who gets a connection, in
the order of asking; `state.py` knows what of a session can be moved and what pins it; `login.py` lets clients in.
"""
