"""Findings: sentences with their evidence. Each answers one question with the verdicts of `inference`."""
