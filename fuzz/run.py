# SPDX-License-Identifier: MIT
"""Coverage-guided fuzzing of what reads untrusted bytes, by atheris (libFuzzer for Python).

    pip install . atheris && python fuzz/seeds.py /tmp/corpus
    python fuzz/run.py TARGET /tmp/corpus/TARGET -max_total_time=300 -timeout=10 -rss_limit_mb=2048

Targets are in targets.py. Anything but a FewbitsError, ten seconds or two gigabytes ends the run, its bytes in crash-*.
`-merge=1 fuzz/corpus/TARGET /tmp/corpus/TARGET` keeps what is worth keeping: tests/test_fuzz.py replays that.
"""

import sys
import warnings

import atheris

with atheris.instrument_imports(include=["fewbits"]):
    import targets


def main() -> None:
    name = sys.argv.pop(1)
    warnings.simplefilter("error")  # numpy's of an overflow or a cast of what is no number

    def once(data: bytes) -> None:
        targets.check(name, data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
