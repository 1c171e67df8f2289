"""The fine-tuning loop, its schedules, evaluation and checkpoints."""
