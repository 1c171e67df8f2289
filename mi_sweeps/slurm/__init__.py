"""Sweeps as job arrays on a SLURM cluster: submitting them, what runs in a task, watching and cancelling."""
