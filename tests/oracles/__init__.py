"""Slow and obvious implementations that tests compare with."""
