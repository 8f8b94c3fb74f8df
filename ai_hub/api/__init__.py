"""The REST service on port 8003: transport only; what it serves is in the packages it calls."""
