"""Bad inputs by the thousand: each must end in success or in one sentence, soon, with nothing left behind.

    python benchmarks/fuzz.py                           # some minutes, seed 0, two processes
    python benchmarks/fuzz.py --seed 7 --cases 500      # other inputs, more of each kind
    python benchmarks/fuzz.py --case image/7/31         # one of them again, with what it said

Every input follows from its name alone (kind/seed/number), so a finding is reproduced by that name. A process runs many of them by
`aegen.cli.main`, under a limit of memory; the parent watches its time, and begins another when it dies. What is held against aegen:

- an exit code other than 0, 1, 2, 3, 4 or 130; a traceback; "this should not have happened";
- a failure without one last line that begins with `error: `, or with two, or with one longer than 1,500 characters;
- control characters on stderr, which a terminal would obey;
- a file that was changed although nobody asked for that, a draft left behind, anything written outside;
- a connection to anywhere, and code that was run because a file named it;
- a process that dies, waits or works for too long.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
CODES = {0, 1, 2, 3, 4, 130}
LONGEST = 1500  # characters of an error
MEMORY = 12 << 30  # bytes of address space; torch alone maps some
PATIENCE = 60.0  # seconds for which an input may wait for something
WORK = 120.0  # seconds of a processor that it may take: a net of a quarter of a billion weights is no fault, and a machine may be busy
_BUSY = 0.003  # of the time, at the least, of a process that works and does not wait


@dataclass(frozen=True)
class Finding:
    """An input that was not taken as it should be."""

    case: str
    what: str
    line: list[str]

    @property
    def signature(self) -> str:
        """What is wrong without names and numbers, so that a thousand of a kind are one row."""
        return re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|-?\d[\d.e+]*", "…", self.what)[:160]


def faults(code: Any, out: str, err: str) -> list[str]:
    """What is wrong with what a command said."""
    found = []
    if code not in CODES:
        found.append(f"exit code {code}")
    if "Traceback" in err or "Traceback" in out:
        found.append("a traceback: " + (err.strip().splitlines() or ["?"])[-1][:200])
    if "should not have happened" in err:
        found.append(err[err.index("should not have happened") :].split("\n")[0][:300])
    lines = err.rstrip("\n").split("\n")
    errors = [line for line in lines if line.startswith("error: ")]
    if code == 130 and errors:
        found.append("that somebody stopped it is called an error")
    if code not in (0, None, 130) and not found:
        if len(errors) != 1 or not lines[-1].startswith("error: "):
            found.append(f"{len(errors)} lines begin with error, the last is {lines[-1][:120]!r}")
        elif len(errors[0]) > LONGEST:
            found.append(f"an error of {len(errors[0])} characters: {errors[0][:100]}")
    if bad := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", err.replace("\r", "")):
        found.append(f"a raw control character {bad[0]!r} on stderr")
    return found


connections: list[str] = []


def watch_network() -> None:
    """Refuse every connection of this process, and remember it; nothing in Python connects without being seen here."""

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
            connections.append(f"{event} {arguments[-1] if event == 'socket.connect' else arguments[0]}")
            raise OSError("no network while bad inputs are tried")

    sys.addaudithook(seen)


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file below a folder with its content's digest; what is no file by its kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
        if path.is_symlink() or not path.is_file():
            found[name] = "link" if path.is_symlink() else "other"
        else:
            found[name] = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    return found


# ---------------------------------------------------------------------------------------------------- one input


def run_case(case: str, corpus: Path, scratch: Path) -> tuple[list[str], list[str], str]:
    """Make the input `kind/seed/number`, run it; its command line, what is wrong, and what it said on stderr."""
    sys.path.insert(0, str(HERE)) if str(HERE) not in sys.path else None
    from fuzz_inputs import KINDS

    name, _, _ = case.split("/")
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    words = KINDS[name](random.Random(case), corpus)
    place: dict[str, str] = {}
    while re.match("[A-Z_]+=", words[0]):
        key, _, place[key] = words.pop(0).partition("=")
    before, outside = fingerprint(folder), fingerprint(corpus)
    connections.clear()
    code, out, err = call(words, place, scratch)
    words = [*(f"{key}={value}" for key, value in place.items()), *words]
    found = faults(code, out, err) + [f"it asked for {where}" for where in connections[:1]]
    after = fingerprint(folder)
    # Training goes on in its folder, a sampler that was fitted is kept there, and what is damaged in a cache is made anew.
    free = ("cache/", "run/", "own/") if "--resume" in words or "sample" in words[:1] else ("cache/",)
    changed = [n for n, digest in before.items() if after.get(n) != digest and not n.startswith(free)]
    if changed:
        found.append(f"an input was changed: {changed[0][:80]!r}")
    if "owned" in after:
        found.append("code that only a file names was run")
    if "fetched" in after:
        found.append("the folder of a download was made that only a file asks for")
    if drafts := [n for n in after if n.endswith(".tmp") and n not in before]:
        found.append(f"a draft was left behind: {drafts[0]!r}")
    now = fingerprint(corpus)
    # `evaluate` writes its numbers into the run's folder, and another worker may be at that meanwhile.
    if [n for n in {*outside, *now} if outside.get(n) != now.get(n) and "/evaluations" not in n]:
        found.append("something outside was written")
    return words, found, err


def call(words: Sequence[str], place: Mapping[str, str], scratch: Path) -> tuple[Any, str, str]:
    """`aegen WORDS` in this process, with `place` in its environment; exit code, stdout and stderr, also what C libraries write."""
    from aegen import descriptions, registry
    from aegen.cli import main

    outer = dict(os.environ)
    os.environ.update(place)
    registry.forget()
    descriptions.forget()
    known = set(sys.modules)
    path = [place["PYTHONPATH"]] if "PYTHONPATH" in place else []
    sys.path[:0] = path
    files = [open(scratch / name, "w+b") for name in ("out", "err")]  # noqa: SIM115
    kept = [os.dup(1), os.dup(2)]
    code: Any = 0
    try:
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(files[0].fileno(), 1), os.dup2(files[1].fileno(), 2)
        try:
            main(list(words))
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            code = f"an escaped {type(error).__name__}: {error}"
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)
        del sys.path[: len(path)]
        for name in set(sys.modules) - known if path else ():
            if name in ("p", "recursion_p"):
                del sys.modules[name]
        os.environ.clear()
        os.environ.update(outer)
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read().decode("utf-8", "replace"))
        file.close()
    return code, texts[0], texts[1]


# ---------------------------------------------------------------------------------------------------- many


def work(pipe: Connection, corpus: Path, scratch: Path) -> None:
    """A process that takes cases until there are no more."""
    import torch

    torch.set_num_threads(1)
    watch_network()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (case := pipe.recv()) is not None:
        pipe.send((case, *run_case(case, corpus, scratch)))


class Worker:
    """One process with its scratch folder; it is replaced when it dies or is too slow."""

    def __init__(self, corpus: Path, scratch: Path) -> None:
        self.corpus, self.scratch = corpus, scratch
        scratch.mkdir(parents=True, exist_ok=True)
        self.case, self.since, self.used = "", 0.0, 0.0
        self.start()

    def start(self) -> None:
        """Begin a process."""
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=work, args=(theirs, self.corpus, self.scratch), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, case: str) -> None:
        """Have it run one."""
        self.case, self.since, self.used = case, time.monotonic(), self._work()
        self.pipe.send(case)

    def taken(self) -> tuple[list[str], list[str]] | None:
        """What came of its case: the line and what is wrong; None while it is at it."""
        if self.pipe.poll():
            try:
                _, words, found, _ = self.pipe.recv()
                return words, found
            except EOFError:
                self.process.join()
                what = f"the process died (exit {self.process.exitcode})"
                self.start()
                return [], [what]
        waited, worked = time.monotonic() - self.since, self._work() - self.used
        if worked > WORK or (waited > PATIENCE and worked < _BUSY * waited):
            self.process.kill()
            self.process.join()
            self.start()
            return [], [f"it worked for {worked:.0f} of {waited:.0f} seconds and was not done"]
        return None

    def _work(self) -> float:
        """Seconds of a processor that the process has taken; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def fuzz(
    cases: Sequence[str], folder: Path, *, workers: int = 2, seconds: float = 1e9, tell: Any = None
) -> list[Finding]:
    """Run the cases, in this order as far as time allows; what was found."""
    from fuzz_inputs import make_corpus

    corpus = folder / "corpus"
    if not corpus.exists():
        make_corpus(corpus)
    team = [Worker(corpus, folder / f"worker{i}") for i in range(workers)]
    idle, found, left, done, end = list(team), [], list(reversed(cases)), 0, time.monotonic() + seconds
    try:
        while len(idle) < len(team) or (left and time.monotonic() < end):
            while idle and left and time.monotonic() < end:
                idle.pop().give(left.pop())
            busy = [worker for worker in team if worker not in idle]
            wait([worker.pipe for worker in busy], timeout=1.0)
            for worker in busy:
                if (verdict := worker.taken()) is not None:
                    words, wrong = verdict
                    found += [Finding(worker.case, what, words) for what in wrong]
                    done += 1
                    idle.append(worker)
                    if tell is not None:
                        tell(done, found)
    finally:
        for worker in team:
            worker.stop()
    if tell is not None:
        tell(done, found, last=True)
    return found


def names(seed: int, count: int, only: Sequence[str] = ()) -> list[str]:
    """`count` cases of each kind, the kinds in turn."""
    from fuzz_inputs import KINDS

    return [f"{kind}/{seed}/{number}" for number in range(count) for kind in KINDS if not only or kind in only]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=150, help="of each kind")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many")
    parser.add_argument("--kind", action="append", default=[], help="only this one")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--case", help="one input, kind/seed/number, with what it says")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["NO_COLOR"] = "1"
    sys.path.insert(0, str(HERE))
    with TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["AEGEN_CACHE"] = str(folder / "cache")
        os.environ["XDG_CONFIG_HOME"] = str(folder / "settings")
        if given.case:
            from fuzz_inputs import make_corpus

            make_corpus(folder / "corpus")
            words, found, err = run_case(given.case, folder / "corpus", folder)
            print("aegen", *map(repr, words), "\n" + err, "\n".join(found) or "as it should be")
            sys.exit(bool(found))
        begin = time.monotonic()

        told: set[str] = set()

        def tell(done: int, found: list[Finding], last: bool = False) -> None:
            for finding in found:
                if finding.signature not in told:  # at once: a long run may be stopped
                    told.add(finding.signature)
                    print(f"  {finding.case}: {finding.what[:200]}", flush=True)
            if done % 100 == 0 or last:
                kinds = len({f.signature for f in found})
                print(
                    f"{done} inputs, {len(found)} findings of {kinds} kinds, {time.monotonic() - begin:.0f} s",
                    flush=True,
                )

        found = fuzz(
            names(given.seed, given.cases, given.kind),
            folder,
            workers=given.workers,
            seconds=given.minutes * 60,
            tell=tell,
        )
    groups: dict[str, list[Finding]] = {}
    for finding in found:
        groups.setdefault(finding.signature, []).append(finding)
    for group in sorted(groups.values(), key=len, reverse=True):
        first = group[0]
        print(f"{len(group):4} × {first.what[:220]}\n       --case {first.case}   aegen {' '.join(first.line)[:160]!r}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
