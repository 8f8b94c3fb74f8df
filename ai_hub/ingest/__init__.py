"""Meter readings and weather from files into TimescaleDB, and the register of assets they belong to."""
