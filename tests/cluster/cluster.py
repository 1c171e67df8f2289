"""A real SLURM cluster of its own on this machine: munge, MariaDB, slurmdbd, slurmctld and three virtual nodes.

    python tests/cluster/cluster.py COMMAND …    runs a command on one (a shell by default) and stops it afterwards

Everything lies in one temporary folder. Partitions: `main`; `low`, whose jobs are requeued when `high` needs their
place.
"""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "setpriv")
SERVICES = ("munged", "mariadbd", "slurmdbd", "slurmctld")
NODES = ("n1", "n2", "n3")
CPUS, MEMORY, GPUS, SHARDS = 8, 8000, 2, 8
"""What each node is told to have. The GPUs are only numbers in CUDA_VISIBLE_DEVICES."""
MAX_ARRAY_SIZE = 9
"""Small, so that a sweep of a dozen points needs several arrays."""
GRACE_SECONDS = 8
"""Between a preemption's SIGTERM and its SIGKILL."""
START_SECONDS = 60.0
NO_INDEX = 2**32 - 2
"""What SLURM writes for the array index of a job that is no array."""

# Debian keeps the daemons where only root's PATH looks.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONF = """\
ClusterName=tests
SlurmUser={user}
SlurmdUser={user}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[slurmctld]}
# A requeued job waits for cred_expire seconds and one more; 5 is the least.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/slurmctld
SlurmdSpoolDir={folder}/slurmd.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
# No cgroups, which a container may not have; nodes are what this file says, not what the machine is.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
# A job above its memory is killed; without cgroups that makes it FAILED, and not OUT_OF_MEMORY.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu,shard
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[slurmdbd]}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu,gres/shard
# Short waits, so that what happens to a job is seen within seconds.
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
KillWait=3
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=5
ReturnToService=1
MaxArraySize={max_array_size}
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE DefaultTime=10
PartitionName=main Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_seconds}
PartitionName=high PriorityTier=100 PreemptMode=OFF
"""

NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
    "CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus},shard:{shards}"
)

# slurmd takes any character devices for GPUs, and these two are everywhere.
GRES = """\
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
Name=shard Count={shards}
"""

SLURMDBD_CONF = """\
SlurmUser={user}
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports[slurmdbd]}
AuthInfo=socket={folder}/munge/socket
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
CommitDelay=1
"""


@dataclass(frozen=True)
class Job:
    """A job or a task of an array, as squeue shows it."""

    id: str
    name: str
    state: str
    reason: str
    comment: str
    node: str


@dataclass(frozen=True)
class Attempt:
    """One start of a job or of a task of an array, as sacct remembers it."""

    id: str
    name: str
    state: str
    exit_code: str
    node: str


@dataclass(frozen=True)
class Cluster:
    """A running cluster. A daemon is one of SERVICES, or that of a node by the node's name."""

    folder: Path
    ports: dict[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """What SLURM_CONF must be."""
        return self.folder / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """The environment in which SLURM's commands mean this cluster."""
        return {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.conf)}

    def run(self, *command: str, check: bool = True, seconds: float = 30) -> subprocess.CompletedProcess[str]:
        """Runs a command on the cluster; one that fails is an error that says why."""
        result = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=seconds, check=False)
        if check and result.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {result.returncode}: {result.stderr.strip()}")
        return result

    def submit(self, script: str, *options: str) -> str:
        """Submits shell commands as a job, with options of sbatch; returns its id."""
        log = f"--output={self.folder}/jobs/%A_%a.txt"
        return self.run("sbatch", "--parsable", log, "--open-mode=append", *options, f"--wrap={script}").stdout.strip()

    def log(self, job: str) -> str:
        """What a submitted job or task of an array has printed."""
        return (self.folder / "jobs" / f"{job if '_' in job else f'{job}_{NO_INDEX}'}.txt").read_text()

    def jobs(self) -> dict[str, Job]:
        """What waits or runs now: jobs, and tasks of arrays as ARRAY_INDEX, by id."""
        lines = self.run("squeue", "--array", "--noheader", "--format=%i|%j|%T|%r|%k|%N").stdout.splitlines()
        return {job.id: job for job in (Job(*line.split("|")) for line in lines)}

    def attempts(self, *ids: str) -> list[Attempt]:
        """All that sacct knows of jobs or arrays, restarts too; it may lag behind by a second or two."""
        form = ("--allocations", "--duplicates", "--noheader", "--parsable2")
        columns = "--format=JobID,JobName,State,ExitCode,NodeList"
        lines = self.run("sacct", *form, columns, f"--jobs={','.join(ids)}").stdout.splitlines()
        return [Attempt(*line.split("|")) for line in lines]

    def states(self, *ids: str) -> list[str]:
        """The states of all attempts, as one word each."""
        return [attempt.state.split()[0] for attempt in self.attempts(*ids)]

    def wait_until(
        self, condition: Callable[[], T], seconds: float = 60, what: str = "the condition", every: float = 0.1
    ) -> T:
        """Waits until something is so, and returns what the condition returned; looks every so many seconds."""
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {seconds:.0f} s\n{self._picture()}")
            time.sleep(every)
        return result

    def wait_for(self, job: str, state: str, seconds: float = 60) -> None:
        """Waits until a job or a task of an array is in a state: as squeue has it, or sacct where it has ended."""

        def reached() -> bool:
            queued = self.jobs().get(job)
            return (queued.state if queued else (self.states(job) or ["unknown"])[-1]) == state

        self.wait_until(reached, seconds, f"job {job} {state}")

    def down(self, node: str) -> None:
        """A node fails: its processes die, and the controller, which knows it first, requeues its jobs."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        steps = self.folder / f"slurmd.{node}"

        def dead() -> bool:
            for pid, env in self._processes():
                if env.get("SLURMD_NODENAME") == node:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            return not list(steps.glob(f"{node}_*"))

        # If the node still had a job when it came back, and another node had that too, SLURM would hold the job.
        self.wait_until(dead, what=f"{node} dead")

    def resume(self, node: str) -> None:
        """Brings back a node that was down."""
        self.run("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait_until(lambda: self._is_ready(node), START_SECONDS, f"{node} back")

    def start(self, daemon: str) -> None:
        """Starts a daemon that does not run, and waits until it answers."""
        self._spawn(daemon)
        self.wait_until(lambda: self._is_ready(daemon), START_SECONDS, f"{daemon} up")

    def _spawn(self, daemon: str) -> None:
        if daemon in self.processes and self.processes[daemon].poll() is None:
            return
        with (self.folder / f"{daemon}.log").open("ab") as log:
            self.processes[daemon] = subprocess.Popen(
                # The daemons end with this process, however that ends.
                ["setpriv", "--pdeathsig", "KILL", *self._command(daemon)],
                # slurmdbd learns only in this way where the database's socket is.
                env={**self.env, "MYSQL_UNIX_PORT": str(self.folder / "mariadb.socket")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, daemon: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends a daemon, with SIGKILL if it takes long. Jobs on a node whose daemon ends go on."""
        process = self.processes.pop(daemon, None)
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)

    def kill(self, daemon: str) -> None:
        """Ends a daemon with SIGKILL."""
        self.stop(daemon, signal.SIGKILL)

    def restart(self, daemon: str) -> None:
        self.stop(daemon)
        self.start(daemon)

    def lose(self, submit: Callable[[], T]) -> T:
        """Kills the controller when `submit` has returned, before it has written down what was submitted.

        Those jobs are lost, and the next ones get their ids. `submit` must not take longer than some 4 seconds.
        """
        self.save()
        result = submit()
        self.kill("slurmctld")
        self.start("slurmctld")
        return result

    def save(self) -> None:
        """Returns at the moment when the controller has written down what it knows, as it does every 5 seconds."""
        state = self.folder / "slurmctld" / "job_state"
        before = state.stat().st_mtime_ns if state.exists() else 0
        # It writes only if something has changed.
        self.run("scancel", self.submit("true", "--hold"))
        self.wait_until(lambda: state.exists() and state.stat().st_mtime_ns > before, what="the controller's state")

    def freeze(self, daemon: str) -> None:
        """Makes a daemon hang, until it is stopped or the cluster is cleared."""
        self.processes[daemon].send_signal(signal.SIGSTOP)

    def clear(self) -> None:
        """Cancels all jobs and heals what was stopped, killed, frozen or set down."""
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
        for daemon in SERVICES:
            self.start(daemon)
        for node in NODES:
            self._spawn(node)

        def empty() -> bool:
            # Again and again, because a job may requeue itself.
            self.run("scancel", f"--user={getpass.getuser()}", check=False)
            return not self.jobs()

        self.wait_until(empty, START_SECONDS, "queue empty")
        # A controller that was killed may have forgotten jobs that go on.
        self._kill_processes(of_jobs=True)
        for node in NODES:
            # One that is up already refuses.
            self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self.wait_until(lambda: all(map(self._is_ready, NODES)), START_SECONDS, "nodes up")

    def close(self) -> None:
        """Ends all daemons, and every process that they leave."""
        with suppress(subprocess.TimeoutExpired):
            self.run("scancel", f"--user={getpass.getuser()}", check=False, seconds=10)
        for daemon in reversed(list(self.processes)):
            self.stop(daemon)
        self._kill_processes()

    def pids(self, job: str) -> list[int]:
        """The processes that srun started for a job or a task of an array."""
        ids = {"SLURM_JOB_ID": job}
        if "_" in job:
            ids = dict(zip(("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"), job.split("_"), strict=True))
        return [pid for pid, env in self._processes() if "SLURM_STEP_ID" in env and ids.items() <= env.items()]

    def stopped(self, job: str) -> bool:
        """Whether a job's processes are there and stopped, as by SIGSTOP."""
        states = []
        for pid in self.pids(job):
            with suppress(OSError):
                states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        return set(states) == {"T"}

    def _processes(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Every process that was started on this cluster, with its environment."""
        for file in Path("/proc").glob("[0-9]*/environ"):
            # Processes come and go while we look, and not all are ours to read.
            with suppress(OSError):
                lines = file.read_bytes().decode(errors="replace").split("\0")
                env = dict(line.split("=", 1) for line in lines if "=" in line)
                if env.get("SLURM_CONF") == str(self.conf):
                    yield int(file.parent.name), env

    def _kill_processes(self, *, of_jobs: bool = False) -> None:
        for pid, env in self._processes():
            with suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if not of_jobs or name == "slurmstepd" or "SLURM_JOB_ID" in env:
                    os.kill(pid, signal.SIGKILL)

    def _command(self, daemon: str) -> list[str]:
        folder = self.folder
        if daemon == "munged":
            files = [
                f"--{name}={folder}/munge/{name}"
                for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")
            ]
            return ["munged", "--foreground", "--force", *files]
        if daemon == "mariadbd":
            socket_and_pid = (f"--socket={folder}/mariadb.socket", f"--pid-file={folder}/mariadb.pid")
            return [*self.database, *socket_and_pid, "--skip-networking", "--skip-log-bin"]
        if daemon == "slurmdbd":
            return ["slurmdbd", "-D"]
        if daemon == "slurmctld":
            return ["slurmctld", "-D"]
        return ["slurmd", "-D", "-N", daemon]

    @property
    def database(self) -> list[str]:
        # Nobody else can reach its socket, so it needs no users; and it need not survive a power cut.
        return [
            *("mariadbd", "--no-defaults", f"--user={getpass.getuser()}", f"--datadir={self.folder}/mariadb"),
            *("--skip-grant-tables", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync"),
            *("--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
        ]

    def _is_ready(self, daemon: str) -> bool:
        if daemon == "mariadbd":
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(str(self.folder / "mariadb.socket")) == 0
        if daemon in NODES:
            states = self.run("sinfo", "--noheader", "--Node", f"--nodes={daemon}", "--format=%T", check=False).stdout
            return bool(states) and set(states.split()) <= {"idle", "mixed", "allocated"}
        probe = {
            "munged": ("munge", "--no-input", f"--socket={self.folder}/munge/socket"),
            "slurmdbd": ("sacctmgr", "--noheader", "show", "cluster"),
            "slurmctld": ("scontrol", "ping"),
        }[daemon]
        return self.run(*probe, check=False).returncode == 0

    def _picture(self) -> str:
        """What there is to see when a wait was in vain."""
        parts = [self.run(*command, check=False).stdout for command in (("squeue", "--array"), ("sinfo", "--Node"))]
        logs = [self.folder / f"{daemon}.log" for daemon in ("slurmctld", *self.processes)]
        for log in dict.fromkeys(log for log in logs if log.exists()):
            parts.append("\n".join([f"{log.name}:", *log.read_text(errors="replace").splitlines()[-10:]]))
        return "\n\n".join(parts)


def missing() -> list[str]:
    """The programs that a cluster needs and that are not installed."""
    return [program for program in PROGRAMS if not shutil.which(program, path=PATH)]


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster of its own, which ends with the context."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name:
        cluster = Cluster(Path(name), _free_ports("slurmdbd", "slurmctld", *NODES))
        _write_files(cluster)
        try:
            cluster.clear()
            yield cluster
        finally:
            cluster.close()


def _free_ports(*names: str) -> dict[str, int]:
    """Ports that are free, below those that the kernel gives to whoever asks for any."""
    ports: dict[str, int] = {}
    for port in random.sample(range(16000, 32000), 1000):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports[names[len(ports)]] = port
        if len(ports) == len(names):
            return ports
    raise RuntimeError(f"no {len(names)} free ports")


def _write_files(cluster: Cluster) -> None:
    folder = cluster.folder
    for name in ("munge", "mariadb", "slurmctld", "jobs", *(f"slurmd.{node}" for node in NODES)):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    sizes = {"cpus": CPUS, "memory": MEMORY, "gpus": GPUS, "shards": SHARDS}
    nodes = "\n".join(NODE.format(name=node, host=host, port=cluster.ports[node], **sizes) for node in NODES)
    facts = {"user": getpass.getuser(), "host": host, "folder": folder, "ports": cluster.ports}
    limits = {"max_array_size": MAX_ARRAY_SIZE, "grace_seconds": GRACE_SECONDS}
    cluster.conf.write_text(CONF.format(**facts, **limits, nodes=nodes))
    (folder / "gres.conf").write_text(GRES.format(shards=SHARDS))
    for name, content in (
        ("munge/key-file", os.urandom(1024)),
        ("slurmdbd.conf", SLURMDBD_CONF.format(**facts).encode()),
    ):
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    # What mariadb-install-db does, less what needs further packages.
    tables = next(Path("/usr/share").glob("m*/m*_system_tables.sql")).read_text()
    with (folder / "mariadbd.log").open("wb") as log:
        script = f"create database mysql;\nuse mysql;\n{tables}".encode()
        command = [*cluster.database, "--bootstrap"]
        subprocess.run(
            command, input=script, stdout=log, stderr=log, env=cluster.env, timeout=START_SECONDS, check=True
        )


if __name__ == "__main__":
    with running() as cluster:
        sys.exit(
            subprocess.run(sys.argv[1:] or [os.environ.get("SHELL", "sh")], env=cluster.env, check=False).returncode
        )
