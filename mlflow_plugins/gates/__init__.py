"""Promotion gates: what must hold before a version may enter Production, by tenant and model."""
