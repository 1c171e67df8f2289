"""The wandb mirror of a run. The run folder is the source of truth: if the mirror fails, the run goes on."""
