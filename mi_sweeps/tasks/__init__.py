"""What the model is asked: prompts, answers, subjects, corruptions, and the token batches made of them."""

METRIC_SUBJECTS: dict[str, tuple[int, ...]] = {
    **{"first": (0,), "second": (1,), "both": (0, 1), "order": (0, 1)},
    "trio": (0,),
}
"""For each corruption of prompts with names the indices of the subjects that the answer is measured against."""

NEEDED_SUBJECTS = {"first": 1, "second": 2, "both": 2, "order": 2, "trio": 2}
"""How many subjects a prompt must have for each."""


def asked(corruption: str, task: str | None, split: str) -> str:
    """What tables and pictures call the prompts of a patch job, so that none mixes two kinds: the corruption; before it
    the task where that is not the run's, and `train` where it was trained on them: "ioi2-first", "train-trio"."""
    return "-".join(filter(None, (task, split if split != "heldout" else "", corruption)))


PREVIOUS_TOKEN = "mi_sweeps.tasks.previous_token.PreviousToken"
"""The previous-token task's `_target_`."""

OF_NUMBERS = (PREVIOUS_TOKEN, "mi_sweeps.tasks.induction.Induction")
"""Tasks that need no tokenizer."""

REPLACED = {"previous": -2, "earlier": -3, "bos": 0}
"""For each corruption of the previous-token task the place of the replaced token; below 0 from the sequence's end, the
last being -1."""

CORRUPTIONS: dict[str, tuple[str, ...]] = {
    PREVIOUS_TOKEN: tuple(REPLACED),
    "mi_sweeps.tasks.greater_than.task": ("start_year", "noun"),
    "mi_sweeps.tasks.gender.task": ("name", "same_gender"),
    "mi_sweeps.tasks.sva.task": ("subject", "attractor"),
    "mi_sweeps.tasks.docstring.task": ("random_answer", "random_doc"),
    "mi_sweeps.tasks.induction.Induction": ("successor", "previous_occurrence"),
}
"""For each task of ours by its `_target_` the corruptions that it has; those of names depend on how many there are."""

NO_BOS = "corruption=bos: with task.bos=false no sequence begins with BOS; use corruption=previous, or task.bos=true"
