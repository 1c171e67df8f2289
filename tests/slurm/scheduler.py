"""What SLURM's commands do, in one script that is installed under each of their names: it keeps a queue in a JSON file.

state.json has: `queue` and `ended`, rows as squeue and sacct print them; `config`, lines of `scontrol show config`;
`job`, what `scontrol show job` says; `refuse`, for a command its message and after how many calls it fails with it;
`hang`, commands that do not answer; `calls`, all that was asked, each with the submissions that the folder of results
`watch` had then.
"""

import fcntl
import json
import re
import sys
import time
from pathlib import Path

here = Path(__file__).parent
command, arguments = Path(sys.argv[0]).name, sys.argv[1:]
options = dict(word.partition("=")[::2] for word in arguments)


def say(*lines):
    sys.stdout.writelines(f"{line}\n" for line in lines)


def sbatch(state):
    script = Path(arguments[-1])
    text = script.read_text()
    name = re.search("--job-name=(.*)", text)[1]
    array = re.search(r"--array=0-(\d+)", text)
    id = state["next"]
    state["next"] += 1
    for number in range(int(array[1]) + 1) if array else [None]:
        state["queue"].append([str(id) if number is None else f"{id}_{number}", name, "PENDING", "Priority", ""])
    (here / "scripts").mkdir(exist_ok=True)
    (here / "scripts" / f"{id}.sh").write_text(text)
    say(f"Submitted batch job {id}")


def squeue(state):
    names = options["--name"].split(",")
    return [row for row in state["queue"] if row[1] in names]


def sacct(state):
    ids = options["--jobs"].split(",")
    return [row for row in state["ended"] if row[0].partition("_")[0] in ids]


def scancel(state):
    def meant(row):
        return row[0] in arguments or row[0].partition("_")[0] in arguments

    state["ended"] += [[*row[:2], "CANCELLED by 0", "0:0", "None assigned"] for row in state["queue"] if meant(row)]
    state["queue"] = [row for row in state["queue"] if not meant(row)]


def scontrol(state):
    if arguments[:2] == ["show", "config"]:
        say(*state["config"])
    elif "show" in arguments:
        say(state["job"])


with open(here / "state.json", "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    state = json.load(file)
    # What a job would find if it began at once.
    records = [path.read_text() for path in Path(state["watch"]).glob("sweeps/*/slurm/*.json")]
    state["calls"].append({"command": command, "arguments": arguments, "records": records})
    message, after = state["refuse"].get(command, ("", 0))
    refused = message and sum(call["command"] == command for call in state["calls"]) > after
    rows = () if refused or command in state["hang"] else globals()[command](state) or ()
    file.seek(0)
    file.write(json.dumps(state))
    file.truncate()
if command in state["hang"]:
    time.sleep(60)
if refused:
    sys.exit(message)
say(*("|".join(row) for row in rows))
