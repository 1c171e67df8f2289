"""What the model is asked: prompts, answers, subjects, corruptions, and the token batches made of them."""
