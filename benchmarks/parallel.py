"""Several processes against one, on this machine's CPU: how far apart the weights are, and what happens when one dies.

    python benchmarks/parallel.py                     # everything, some 10 minutes on two cores; two hosts need root and iproute2
    python benchmarks/parallel.py --part hosts

`same`: DDP and FSDP2 with 2 and 4 processes and the same images a step. `killed`: SIGKILL of one of two processes in mid-epoch, and
`--max-restarts`. `hosts`: two network namespaces with addresses of their own, joined by a cable that drops nothing, each running its own
`torchrun`, which meet over c10d; then the same with a worker of the second host killed. The last two are compared,
weight by weight, with an undisturbed run of two processes: from one process, 600 steps lead rounding errors too far away.
That it is only these: tests/test_parallel.py, in float64.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aegen.checkpoint import Checkpoint

BATCH = 64  # of all processes
STEPS = 10  # in float32; some dozen steps on, a rounding error has flipped a ReLU or tipped the choice of a code, and runs part
SMALL = ("--size", "16", "--arch", "conv", "--arch.width", "8", "--arch.hidden", "32")
QUIET = ("--set", "log.images_every_epochs=0")
RUNS = {
    "ae": ("--objective", "ae"),
    "vae, averages, clipping": ("--objective", "vae", "--set", "train.ema=0.99", "--set", "train.clip=100"),
    "vq-vae": ("--objective", "vq-vae", "--bottleneck.codes", "128", "--bottleneck.restart", "5"),
    "vae+adversarial, r1": ("--objective", "vae+adversarial", "--objective.adversarial.r1", "1", "--lr", "2e-4"),
    "gan, r1": ("--objective", "gan"),
    "beta-tc-vae": ("--objective", "beta-tc-vae"),
}


def command(processes: int, *words: str, launch: tuple[str, ...] = ("--standalone",)) -> list[str]:
    """`aegen train` with the same images a step, however many processes there are."""
    start = ["-W", "ignore", "-m", "torch.distributed.run", *launch] if processes > 1 else []
    batch = ("--batch-size", str(BATCH // processes))
    return [sys.executable, *start, "-m", "aegen", "train", *SMALL, *QUIET, *batch, *words]


def environment() -> dict[str, str]:
    """One thread a process."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def train(folder: Path, name: str, processes: int, *words: str) -> None:
    """One run, into `folder/name`."""
    launch = ("--standalone", f"--nproc-per-node={processes}")
    done = subprocess.run(
        command(processes, *words, "--run-dir", name, launch=launch),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")


def apart(one: Path, other: Path) -> float:
    """Largest difference of a weight, an average or a buffer."""
    whole = [Checkpoint(run / "checkpoints/last.safetensors").tensors("") for run in (one, other)]
    keys = [key for key in whole[0] if key.startswith(("model.", "ema.", "objective."))]
    a, b = ([tensors[key].double() for key in keys] for tensors in whole)
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True) if x.numel())


def same(folder: Path) -> None:
    """Every objective, number of processes and way to share."""
    print(f"largest difference of a weight from one process, after {STEPS} steps of {BATCH} images")
    print(f"{'':26}" + "".join(f"{way:>10}" for way in ("ddp ×2", "fsdp ×2", "ddp ×4", "fsdp ×4")))
    for name, words in RUNS.items():
        train(folder, f"{name}-1", 1, *words, "--steps", str(STEPS))
        row = []
        for processes in (2, 4):
            for way in ("ddp", "fsdp"):
                run = f"{name}-{way}-{processes}"
                train(folder, run, processes, *words, "--steps", str(STEPS), "--parallel", way)
                row.append(apart(folder / f"{name}-1", folder / run))
        print(f"{name:26}" + "".join(f"{value:10.1e}" for value in row), flush=True)


def workers(agent: int) -> list[int]:
    """Processes that an agent of torchrun started, or one below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == agent:
            found.append(int(entry.parent.name))
    return found


def kill_one(agent: int, log: Path) -> int:
    """SIGKILL for the youngest worker, some steps after the first checkpoint; the step that was read last."""
    checkpoint = log.parent / "checkpoints/last.safetensors"
    while not checkpoint.exists():
        time.sleep(0.02)
    lines = len(log.read_text().splitlines())
    while len(log.read_text().splitlines()) < lines + 2:
        time.sleep(0.02)
    os.kill(max(workers(agent)), signal.SIGKILL)
    return len(log.read_text().splitlines())


LONG = ("--objective", "vae", "--steps", "600", "--set", "checkpoint.every_steps=50", "--set", "log.every_steps=10")


def undisturbed(folder: Path, way: str) -> Path:
    """What the others are compared with: a run of two processes here."""
    run = folder / f"undisturbed-{way}"
    if not run.exists():
        train(folder, run.name, 2, *LONG, "--parallel", way)
    return run


def killed(folder: Path) -> None:
    """One of two processes is killed in mid-epoch."""
    for way in ("ddp", "fsdp"):
        launch = ("--standalone", "--nproc-per-node=2", "--max-restarts=3")
        words = command(2, *LONG, "--parallel", way, "--run-dir", f"killed-{way}", launch=launch)
        agent = subprocess.Popen(
            words, cwd=folder, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        kill_one(agent.pid, folder / f"killed-{way}/metrics.jsonl")
        report(agent.communicate()[1], agent.returncode, folder / f"killed-{way}", undisturbed(folder, way))


def report(talk: str, code: int, run: Path, plain: Path) -> None:
    """Where the run went on from, and how far it ended from the undisturbed one."""
    if code:
        raise SystemExit(f"{run.name} failed:\n{talk[-4000:]}")
    went_on = [line for line in talk.splitlines() if line.startswith("run ")]
    print(
        f"{run.name}: exit {code}; {'; then '.join(went_on)}; apart {apart(plain, run):.1e}",
        flush=True,
    )


@contextmanager
def two_hosts() -> Iterator[Callable[[int], list[str]]]:
    """Two network namespaces with a cable between them; how a command begins that runs on one of them."""
    names = [f"aegen{os.getpid()}{side}" for side in "ab"]
    ends = ["aegen-a", "aegen-b"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield lambda i: ["ip", "netns", "exec", names[i], "env", f"GLOO_SOCKET_IFNAME={ends[i]}"]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def hosts(folder: Path) -> None:
    """Two hosts with one process each; then a worker of the second is killed."""
    plain = undisturbed(folder, "ddp")
    with two_hosts() as on:
        for name, deadly in (("hosts", False), ("hosts-killed", True)):
            meet = ("--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", f"--rdzv-id={name}")
            agents = []
            for i in range(2):
                # Names of hosts are not known in a namespace, so each says its address and who is the first.
                launch = (*meet, "--rdzv-endpoint=10.77.0.1:29500", f"--local-addr=10.77.0.{i + 1}")
                launch += (f"--rdzv-conf=is_host={1 - i}",)
                words = [*on(i), *command(2, *LONG, "--run-dir", name, launch=launch)]
                pipe = subprocess.PIPE
                agents.append(
                    subprocess.Popen(words, cwd=folder, env=environment(), stderr=pipe, stdout=pipe, text=True)
                )
            if deadly:
                kill_one(agents[1].pid, folder / name / "metrics.jsonl")
            talk = [agent.communicate()[1] for agent in agents]
            report("\n".join(talk), max(agent.returncode for agent in agents), folder / name, plain)


def main() -> None:
    """Run what is asked for."""
    parts = {"same": same, "killed": killed, "hosts": hosts}
    parser = argparse.ArgumentParser(description="Several processes against one.")
    parser.add_argument("--part", choices=list(parts), action="append")
    chosen = parser.parse_args().part or list(parts)
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
