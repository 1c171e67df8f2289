"""Make `mini` from nothing, and measure it: `python -m mi_sweeps.models.mini --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers.utils import logging

from mi_sweeps import libraries
from mi_sweeps.models.mini import TEMPLATE_SEED
from mi_sweeps.models.mini.measure import win_rate
from mi_sweeps.models.mini.pretraining import Recipe, pretrain
from mi_sweeps.tasks import ioi
from mi_sweeps.tasks.lexicon import MINI_NAMES, NAMES

PROMPTS = 996
"""How many the model is measured on; a multiple of 6, the number of orders of three names."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mi_sweeps.models.mini",
        description="Make `mini` from nothing, and measure it.",
    )
    parser.add_argument("--out", type=Path, default=Path("mini"), help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="default: %(default)s, the packaged one's")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    """Train, save and measure."""
    args = arguments()
    # For matrices of this size a second thread gains nothing, and with one the weights do not depend on
    # how many cores there are.
    libraries.ready(threads=1)
    logging.disable_progress_bar()

    def report(step: int, loss: float) -> None:
        is_last, live = step == args.steps, sys.stderr.isatty()
        if live or is_last or step % 100 == 0:
            start, end = ("\r", "\n" if is_last else "") if live else ("", "\n")
            print(f"{start}step {step}/{args.steps}  loss {loss:.3f}", end=end, file=sys.stderr, flush=True)

    model, tokenizer = pretrain(Recipe(seed=args.seed, steps=args.steps), report)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    # safetensors lets nobody but the owner read what it writes.
    (args.out / "model.safetensors").chmod(0o644)
    # How to sample is of no use to the experiments.
    (args.out / "generation_config.json").unlink(missing_ok=True)

    print(f"{args.out}: {model.num_parameters():,} parameters, {len(tokenizer)} words")
    for n_names, label in ((2, "two-name"), (3, "three-name")):
        prompts = ioi.splits(NAMES[:MINI_NAMES], n_names, {"test": PROMPTS}, TEMPLATE_SEED)["test"]
        print(f"{label} IOI, win rate on unseen templates: {win_rate(model, tokenizer, prompts)}")


if __name__ == "__main__":
    main()
