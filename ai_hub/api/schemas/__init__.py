"""Requests and responses, as OpenAPI shows them."""
