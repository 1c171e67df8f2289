"""A sweep as job arrays on a SLURM cluster: what is submitted, what runs there, and how it is seen and stopped."""
