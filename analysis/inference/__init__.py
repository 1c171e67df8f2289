"""Inference from the tables: estimates with intervals, simultaneous verdicts, and courses of heads."""
