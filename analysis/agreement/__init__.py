"""Compares runs: agreement of seeds, roles of heads, two corruptions, stability of members."""
