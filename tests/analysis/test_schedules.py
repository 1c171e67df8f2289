"""The picture of the schedules in the documentation."""

from __future__ import annotations

from importlib import resources

from mi_sweeps.analysis.schedules import draw


def test_all_schedules_that_can_be_chosen_are_in_the_picture():
    (axis,) = draw().axes
    drawn = {line.get_label() for line in axis.get_lines()}
    files = (resources.files("mi_sweeps.conf") / "schedule").iterdir()
    assert drawn == {file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")}
