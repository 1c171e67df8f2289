"""Compares runs: do seeds agree, which heads have the same role, do two corruptions act alike, are members stable?"""
