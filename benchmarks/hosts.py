"""A sweep over three hosts without a shared folder, and a fourth with an S3 server: network namespaces on one machine.

    sudo python -m benchmarks.hosts

Needs root, iproute2, the extras ray and s3, and moto's server. Each host is a network namespace with an address of its
own and with nothing of the front door's folder; Ray connects them, and DVC's remote on the S3 server is all through
which they hand over what they build. Once undisturbed; once with one host killed half-way, then the same command again.
Every artifact is compared. Writes benchmarks/hosts.md.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from benchmarks.interrupted import result
from benchmarks.sweeps import repository
from pipeline.sweeps import lineage

RESULTS = Path(__file__).parent / "hosts.md"
NETWORK = "10.77.0"
STORE = f"http://{NETWORK}.1:5000"  # moto_server, on the bridge
HOSTS = {"kva": f"{NETWORK}.2", "kvb": f"{NETWORK}.3", "kvc": f"{NETWORK}.4"}  # the front door runs on the first
BIN = Path(sys.executable).parent
IP = shutil.which("ip") or "ip"
SWEEP = ("-m", "experiment=tiny", "model.seed=0,1,2,3", "engine.threads=1,2", "hydra/launcher=ray_cluster")
ONE_CORE = "+hydra.launcher.ray.remote.num_cpus=1"
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
ENVIRONMENT = {**os.environ, **KEYS, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}


def sh(*command: str, check: bool = True) -> str:
    """Run a command; return what it prints."""
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout


@contextmanager
def network() -> Iterator[None]:
    """Three namespaces on a bridge."""
    down()
    sh("ip", "link", "add", "kvbr", "type", "bridge")
    sh("ip", "addr", "add", f"{NETWORK}.1/24", "dev", "kvbr")
    sh("ip", "link", "set", "kvbr", "up")
    for name, address in HOSTS.items():
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", f"{name}0", "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "link", "set", f"{name}0", "master", "kvbr", "up")
        for arguments in (("addr", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            sh("ip", "-n", name, *arguments)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", name, "route", "add", "default", "via", f"{NETWORK}.1")
    try:
        yield
    finally:
        down()


def down() -> None:
    """End everything on the hosts, and remove them."""
    for name in HOSTS:
        kill(name)
        sh("ip", "netns", "del", name, check=False)
    sh("ip", "link", "del", "kvbr", check=False)


def kill(name: str) -> None:
    """End every process of a host, as a power cut does."""
    for pid in sh("ip", "netns", "pids", name, check=False).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


def on(name: str, hidden: Path | None, *command: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a command on a host. hidden: a folder that this host does not see."""
    if hidden:
        script = f'mount -t tmpfs none "{hidden}" && exec "$@"'
        command = ("unshare", "--mount", "sh", "-c", script, "sh", *command)
    log = (Path(tempfile.gettempdir()) / f"{name}.log").open("ab")
    return subprocess.Popen(
        [IP, "netns", "exec", name, *command], env=ENVIRONMENT, cwd=cwd or "/", stdout=log, stderr=log
    )


def start_ray(front: Path) -> None:
    """Start Ray on all hosts; those besides the first see nothing of the front door's folder."""
    common = ("--num-cpus=1", "--block", "--object-store-memory=80000000", "--disable-usage-stats")
    head, *others = HOSTS
    ray = str(BIN / "ray")
    on(head, None, ray, "start", "--head", f"--node-ip-address={HOSTS[head]}", "--port=6379",
       "--include-dashboard=false", *common)  # fmt: skip
    time.sleep(10)
    for name in others:
        join(name, front, *common)
    time.sleep(10)


def join(name: str, front: Path, *common: str) -> None:
    """Let a host join the cluster."""
    address = f"--address={HOSTS['kva']}:6379"
    on(name, front, str(BIN / "ray"), "start", address, f"--node-ip-address={HOSTS[name]}", *common)


def front_door(root: Path) -> subprocess.Popen[bytes]:
    """Start the sweep on the first host."""
    return on("kva", None, sys.executable, "-m", "pipeline", *SWEEP, ONE_CORE, cwd=root)


def fresh(folder: Path, bucket: str) -> Path:
    """Return a repository whose remote is a bucket of the server."""
    keys = {"aws_access_key_id": KEYS["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"]}
    boto3.client("s3", endpoint_url=STORE, region_name=KEYS["AWS_DEFAULT_REGION"], **keys).create_bucket(Bucket=bucket)
    root = repository(folder)
    with (root / ".dvc/config").open("a") as file:
        file.write(f"['remote \"store\"']\n    url = s3://{bucket}\n    endpointurl = {STORE}\n")
    subprocess.run([sys.executable, "-m", "dvc", "remote", "default", "store"], cwd=root, check=True)
    return root


def ran_on(root: Path) -> str:
    """Tell how many stages ran on each host, as far as they differ by name; namespaces of one machine share theirs."""
    runs = [run for point in (root / "artifacts").glob("*/") for run in lineage.read(point)]
    counts = Counter(run.outcome for run in runs)
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))


def main() -> None:
    """Run the demonstration."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, network():
        server = subprocess.Popen([BIN / "moto_server", "-H", f"{NETWORK}.1", "-p", "5000"], stderr=subprocess.DEVNULL)
        time.sleep(5)
        try:
            front = Path(folder, "front")
            root = fresh(front / "undisturbed", "undisturbed")
            start_ray(front)
            begun = time.perf_counter()
            code = front_door(root).wait()
            whole = time.perf_counter() - begun
            wanted = result(root)
            rows.append(("undisturbed", code, f"{whole:.0f} s", ran_on(root), f"{len(wanted)} files"))
            print(*rows[-1], flush=True)

            root = fresh(front / "killed", "killed")
            build = front_door(root)
            time.sleep(whole / 2)
            kill("kvc")
            rows.append(("one host killed after half that time", build.wait(), "", ran_on(root), ""))
            print(*rows[-1], flush=True)
            begun = time.perf_counter()
            code = front_door(root).wait()
            equal = "all equal" if result(root) == wanted else "DIFFERENT"
            rows.append(("the same command again", code, f"{time.perf_counter() - begun:.0f} s", ran_on(root), equal))
            print(*rows[-1], flush=True)
        finally:
            server.kill()
    lines = [
        "# Hosts without a shared folder\n",
        "Three network namespaces as hosts, connected by Ray; an S3 server (moto) is the DVC remote through which they",
        f"hand over what they build. `python -m pipeline {' '.join(SWEEP)}`.",
        "Written by `python -m benchmarks.hosts`.\n",
        "| run | exit code | time | stages of the points, in the front door | artifacts |",
        "|---|--:|--:|---|---|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
