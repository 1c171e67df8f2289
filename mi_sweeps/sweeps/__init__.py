"""Overrides -> grid -> plan -> execution -> status."""
