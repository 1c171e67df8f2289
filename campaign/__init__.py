"""What mi-sweeps survives, tried out: kills, broken disks, damaged files, hostile input, thousands of points.

    python -m campaign                      all of it, about an hour on two cores; goes on where it was interrupted
    python -m campaign --part kills --seed 7
    python -m campaign --part kills --trial solo-003    one trial again, with what is left of it kept
    python -m campaign --quick              a few trials of each part
    python -m campaign --write              the figures of the last run into docs/reliability.md

Results are lines of JSON in `--folder`, one for each trial.
"""
