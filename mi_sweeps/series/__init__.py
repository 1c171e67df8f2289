"""Series: checkpoints of a run that somebody else trained."""
