"""Measures checkpoints: logit lens, attribution, exact activation patching, circuits."""
