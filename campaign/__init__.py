"""Tests what mi-sweeps survives: kills, broken disks, damaged files, hostile input, thousands of grid points.

    python -m campaign                      everything, about an hour on two cores; resumes after an interruption
    python -m campaign --part kills --seed 7
    python -m campaign --part kills --scenario solo-003    repeats one scenario and keeps its folder
    python -m campaign --quick              a few scenarios of each part
    python -m campaign --write              writes the figures of the last run into docs/reliability.md

Results are JSON lines in `--folder`, one per scenario.
"""
