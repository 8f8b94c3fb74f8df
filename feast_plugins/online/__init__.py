"""The online store's parts: keys, one exchange with Redis, the answer's bytes, connections."""
