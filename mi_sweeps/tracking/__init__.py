"""The wandb mirror of a run. The run folder is the truth; the mirror may fail and fails nothing."""
