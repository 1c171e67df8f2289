"""From a checkpoint to tables: logit lens, attribution, exact activation patching."""
