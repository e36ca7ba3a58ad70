#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Coverage-guided fuzzing of what reads untrusted bytes, by atheris (libFuzzer for Python), in a virtual environment:

    pip install . atheris && python fuzz/seeds.py /tmp/corpus
    fuzz/run.py --target=klt /tmp/corpus/klt -max_total_time=300 -timeout=10 -rss_limit_mb=2048

Targets are in targets.py. Anything but a FewbitsError, ten seconds or two gigabytes ends the run, its bytes in crash-*.
`fuzz/run.py --target=klt -merge=1 fuzz/corpus/klt /tmp/corpus/klt` keeps what reaches more; tests/test_fuzz.py replays that.
"""

import sys
import warnings

import atheris

with atheris.instrument_imports(include=["fewbits"]):
    import targets

OPTION = "--target="  # libFuzzer leaves options with two dashes alone, and hands them on to the processes that it starts


def main() -> None:
    name = next((part.removeprefix(OPTION) for part in sys.argv if part.startswith(OPTION)), None)
    if name not in targets.TARGETS:
        raise SystemExit(f"{OPTION}NAME is needed, one of {', '.join(targets.TARGETS)}")
    warnings.simplefilter("error")  # numpy's of an overflow or a cast of what is no number
    atheris.Setup(sys.argv, lambda data: targets.check(name, data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
