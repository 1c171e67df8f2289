"""Each Python of a job imports this first. It stops at its second checkpoint or table if a test holds that run or patch
job.

Stopped from outside, a small run would often have ended before.
"""

import os
import signal
from pathlib import Path

replace, written = os.replace, 0


def replace_and_stop(source, target, **options):
    global written
    replace(source, target, **options)
    run, place, name = Path(target).parts[-3:]
    if place in ("checkpoints", "tables") and name[0].isdigit():
        written += 1
        if written >= 2 and Path(os.environ["HELD"], run).exists():
            os.kill(os.getpid(), signal.SIGSTOP)


if "HELD" in os.environ:
    os.replace = replace_and_stop
