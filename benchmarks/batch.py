# SPDX-License-Identifier: MIT
"""How many processes, of how many threads, encode a folder fastest: `fewbits encode`'s own pool, on the same photographs.

The settings take turns, so that whatever else the machine does hits all alike. Starting the processes is part of the time, as it
is for users. Prints the part of the work that no threads can share, too, and handles and memory over 500 encodes in one process.
"""

import argparse
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from demo import PHOTOGRAPHS, photographs

from fewbits.batch import run
from fewbits.codec import load_model
from fewbits.conversion import Encoding, picture_extensions
from fewbits.picturefile import read_picture
from fewbits.planning import Task, plan
from fewbits.processor import cores


def mpx_per_s(sources: list[str], jobs: int, threads: int) -> float:
    with tempfile.TemporaryDirectory() as out:
        tasks = [Task(source, f"{out}/{number}.few") for number, source in enumerate(sources)]
        begun = time.monotonic()
        results = list(run(tasks, Encoding(60, "few", threads), jobs=jobs, force=False))
        seconds = time.monotonic() - begun
    assert all(result.status == "done" for result in results), results
    return sum(result.n_px for result in results) / 1e6 / seconds


def print_speeds(sources: list[str], repeat: int) -> None:
    counts = [n for n in range(1, cores() + 1) if cores() % n == 0]
    speeds: dict[int, list[float]] = {jobs: [] for jobs in counts}
    for _ in range(repeat):
        for jobs, own in speeds.items():
            own.append(mpx_per_s(sources, jobs, cores() // jobs))
    print(f"{len(sources)} photographs, {cores()} cores, {repeat} repeats\n\nprocesses  threads each  MP/s (median)")
    for jobs, own in speeds.items():
        print(f"{jobs:9}  {cores() // jobs:12}  {median(own):13.2f}")


def print_shares(sources: list[str]) -> None:
    """Seconds of the processor on one thread: only the networks of `analyse` can use more, and some of `quantize`'s time."""
    pipeline = load_model("few", threads=1).pipeline
    print("\nphotograph       read  networks  symbols (s on one thread)")
    for source in sources:
        for _ in range(2):  # the first time loads the networks
            times = [time.process_time()]
            picture = read_picture(Path(source).read_bytes(), source)
            times.append(time.process_time())
            level = pipeline.level(6000, picture.colour)
            y = pipeline.analyse(picture.pixels, level, lambda _: None)
            times.append(time.process_time())
            pipeline.quantize(y, level)
            times.append(time.process_time())
        read, networks, symbols = (after - before for before, after in pairwise(times))
        print(f"{Path(source).name:15} {read:5.3f}  {networks:8.3f}  {symbols:7.3f}")


def print_leaks(source: str, n_encodes: int = 500) -> None:
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    print(f"\n{n_encodes} encodes of {Path(source).name} in one process\n\nencodes  handles  MB resident")
    with tempfile.TemporaryDirectory() as out:
        tasks = [Task(source, f"{out}/{number}.few") for number in range(n_encodes)]
        for number, _ in enumerate(run(tasks, Encoding(60, "few", 1), jobs=1, force=False), 1):
            if number % 100 == 0:
                resident = int(Path("/proc/self/statm").read_text().split()[1]) * page_bytes
                print(f"{number:7}  {len(os.listdir('/proc/self/fd')):7}  {resident / 1e6:11.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", help="a folder of photographs (default: those of scikit-image)")
    parser.add_argument("--times", type=int, default=8, help="times each photograph is encoded in a run (default %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each setting (default %(default)s)")
    options = parser.parse_args()
    if options.images:
        sources = [task.source for task in plan([options.images], "", ".few", picture_extensions()).tasks]
    else:
        sources = [str(path) for path in photographs(PHOTOGRAPHS)]
    print_speeds(sources * options.times, options.repeat)
    print_shares(sources)
    if Path("/proc/self/fd").exists():
        print_leaks(sources[0])


if __name__ == "__main__":
    main()
