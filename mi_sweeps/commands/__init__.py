"""What each command does.

A command is a file here: HELP and WORDS for `--help`, `arguments` for its options, and `run`; `mi_sweeps.cli` names it.
Only what a command needs is imported, so that help and status are quick.
"""
