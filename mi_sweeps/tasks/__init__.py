"""What the model is asked: prompts, answers, subjects, corruptions, and the token batches made of them."""

METRIC_SUBJECTS: dict[str, tuple[int, ...]] = {"first": (0,), "second": (1,), "both": (0, 1), "order": (0, 1)}
"""For each corruption of prompts with names the indices of the subjects that the answer is measured against."""

PREVIOUS_TOKEN = "mi_sweeps.tasks.previous_token.PreviousToken"
"""The previous-token task's `_target_`."""

REPLACED = {"previous": -2, "earlier": -3, "bos": 0}
"""For each corruption of the previous-token task the place of the replaced token; below 0 from the sequence's end, the
last being -1."""

NO_BOS = "corruption=bos: with task.bos=false no sequence begins with BOS; use corruption=previous, or task.bos=true"
