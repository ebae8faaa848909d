"""A SLURM of a head and two hosts on this machine, for the tests and to try things by hand.

    python tests/slurm/cluster.py                             # a shell on the head; the cluster ends with it
    python tests/slurm/cluster.py srun --nodes=2 hostname     # one command on the head

The cluster lives in namespaces of its own (processes, network, mounts, host names). Each host has its own
network as well, so that two hosts do not reach each other through localhost; the file system is everybody's.
The kernel ends all of it with the head's first process, and that one ends when its standard input closes,
which happens whatever becomes of the process that started it. So nothing has to be cleaned up.

Needs root, slurm-wlm, munge and iproute2 (`make cluster-test` installs them).
"""
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOSTS = {"node1": "10.88.0.11", "node2": "10.88.0.12"}
NEEDED = ("slurmctld", "slurmd", "munged", "srun", "ip", "unshare", "nsenter")
UNSHARE = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What runs on the head; $1 is the folder. The first process waits, so that it also buries orphans.
HEAD = """
hostname head; mount -t tmpfs run /run; mount --bind "$1/hosts" /etc/hosts
ip link set lo up; ip link add bridge type bridge; ip addr add 10.88.0.1/24 dev bridge; ip link set bridge up
munged --force --key-file="$1/munge/key" --socket="$1/munge/socket" --pid-file="$1/munge/pid" \
    --log-file="$1/log/munged.log" --seed-file="$1/munge/seed"
slurmctld -f "$1/slurm.conf"
echo ready
exec 3<&0; cat <&3 > /dev/null & wait $!
"""
# A host's network outlives it, as a cable does. $1: name, $2: address.
CABLE = """
ip netns add "$1"; ip link add "$1" type veth peer eth0 netns "$1"; ip link set "$1" master bridge up
ip -n "$1" addr add "$2/24" dev eth0; ip -n "$1" link set eth0 up; ip -n "$1" link set lo up
"""
# $1: name, $2: folder.
HOST = """
hostname "$1"; mount -t tmpfs shm /dev/shm
slurmd -D -N "$1" -f "$2/slurm.conf" 2> /dev/null & wait $!
"""


def why_not() -> str:
    """What this machine lacks for a cluster, in words; "" when nothing."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in NEEDED if not shutil.which(name, path=SYSTEM_PATH)]
    if missing:
        return f"needs slurm-wlm, munge and iproute2, found no {missing[0]}"
    tried = subprocess.run([*UNSHARE, "--net", "mount", "-t", "tmpfs", "run", "/run"], capture_output=True)
    return f"needs the right to make namespaces: {tried.stderr.decode().strip()}" if tried.returncode else ""


class Cluster:
    """A running cluster; a context manager. folder: an empty one, for everything that the cluster writes."""

    def __init__(self, folder: Path):
        self.folder = Path(folder).resolve()

    def __enter__(self):
        self._write_files()
        self.head = subprocess.Popen([*UNSHARE, "--net", "sh", "-euc", HEAD, "head", self.folder],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PATH": SYSTEM_PATH})
        try:
            if not self.head.stdout.readline():
                raise RuntimeError("the head of the cluster did not start, see above")
            self.first = Path(f"/proc/{self.head.pid}/task/{self.head.pid}/children").read_text().strip()
            self._wait_for("slurmctld", ["scontrol", "ping"], "UP")
            for name, address in HOSTS.items():
                self.run("sh", "-euc", CABLE, "cable", name, address)
                self.start_host(name)
            self.wait_until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.head.stdin.close()
        self.head.wait(10)

    def _write_files(self):
        for name in ("munge", "state", "log", "tmp", *(f"spool/{host}" for host in HOSTS)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge" / "key").touch(0o600)
        (self.folder / "munge" / "key").write_bytes(os.urandom(1024))
        names = {"localhost": "127.0.0.1", "head": "10.88.0.1"} | HOSTS
        (self.folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in names.items()))
        cores = max(2, os.cpu_count() or 1)
        size = f"CPUs={cores} CoresPerSocket={cores} RealMemory=8000"
        text = (Path(__file__).parent / "slurm.conf.in").read_text()
        text = text.replace("@FOLDER@", str(self.folder)).replace("@SIZE@", size)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def enter(self, *command, **environment) -> list[str]:
        """The words that run a command on the head, as somebody who has just logged in, in this folder."""
        path = f"{Path(sys.executable).parent}:{SYSTEM_PATH}"
        environment = {"PATH": path, "HOME": self.folder / "tmp", "TMPDIR": self.folder / "tmp",
                       "SLURM_CONF": self.folder / "slurm.conf", "OMP_NUM_THREADS": 1} | environment
        return ["/usr/bin/nsenter", "--target", self.first, "--mount", "--uts", "--net", "--pid",
                "env", "-i", "-C", os.getcwd(), *(f"{name}={value}" for name, value in environment.items()),
                *map(str, command)]

    def run(self, *command, check=True, timeout=120, **environment) -> subprocess.CompletedProcess:
        """Run a command on the head and wait for it; its output is text."""
        return subprocess.run(self.enter(*command, **environment), capture_output=True, text=True,
                              check=check, timeout=timeout)

    def start_host(self, name):
        """Switch a host on."""
        command = ["ip", "netns", "exec", name, *UNSHARE, "sh", "-euc", HOST, name, name, self.folder]
        subprocess.Popen(self.enter(*command), stdin=subprocess.DEVNULL, start_new_session=True)

    def wait_until_idle(self):
        """Wait until all hosts are there and idle.

        A host whose word that a job has ended was lost is asked again after KillWait and twice
        MessageTimeout, 50 seconds by default, at the next of the controller's rounds, which come once a
        minute.
        """
        self._wait_for("idle hosts", ["sinfo", "--noheader", "--format=%P %T %D"],
                       f"main* idle {len(HOSTS)}", seconds=180)

    def signal_host(self, name, signal):
        """Send a signal, such as "KILL", to every process of a host."""
        self.run("sh", "-c", f"ip netns pids {name} | xargs --no-run-if-empty kill -{signal}", check=False)

    def cable(self, name, state):
        """Plug a host's network cable in ("up") or out ("down")."""
        self.run("ip", "link", "set", name, state)

    def _wait_for(self, what, command, wanted, seconds=30):
        deadline = time.monotonic() + seconds
        while wanted not in (output := self.run(*command, check=False).stdout):
            if time.monotonic() > deadline or self.head.poll() is not None:
                logs = "\n".join(path.read_text()[-2000:] for path in (self.folder / "log").iterdir())
                raise RuntimeError(f"expected {what} within {seconds} s, found {output.strip()!r}\n{logs}")
            time.sleep(0.1)


def main() -> int:
    """Start a cluster, run the command line's command on the head, and end the cluster."""
    if reason := why_not():
        print(f"error: a cluster {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder, Cluster(folder) as cluster:
        return subprocess.run(cluster.enter(*(sys.argv[1:] or ["bash"]))).returncode


if __name__ == "__main__":
    sys.exit(main())
