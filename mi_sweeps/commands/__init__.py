"""The commands of the command line.

Each command is a file here with HELP and WORDS for `--help`, `arguments` for its options, and `run`; `mi_sweeps.cli`
lists them. Functions import only what they need, so that help and status are quick.
"""
