"""What the model is asked: prompts, answers, subjects, corruptions, and the token batches made of them."""

METRIC_SUBJECTS: dict[str, tuple[int, ...]] = {"first": (0,), "second": (1,), "both": (0, 1), "order": (0, 1)}
"""For each corruption of prompts with names the indices of the subjects that the answer is measured against."""

REPLACED = {"previous": 2, "earlier": 3}
"""For each corruption of the previous-token task how far from the sequence's end the replaced token is, the last being
1."""
