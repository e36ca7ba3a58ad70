# SPDX-License-Identifier: MIT
"""Measure, and write docs/benchmarks.md, the plots it shows, and the block of numbers in README.md.

Every number in them comes from `fewbits bench`, and benchmarks/speed.py, memory.py and scaling.py, which this runs. Needs the
extras `bench` and `jxl`, a folder of lossless photographs (Kodak), and the file of published curves.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from scaling import BEGIN as SCALING_BEGIN
from scaling import END as SCALING_END

from fewbits.bench.text import with_block

ROOT: Final = Path(__file__).resolve().parents[1]
WORK: Final = Path("runs")  # measurements stay here, and are not done twice
CODECS: Final = "few,few-psnr,jpeg,jpeg2000,webp,avif,jxl"
OTHERS: Final = "few,few-psnr,jpeg,avif"
METRICS: Final = ("psnr", "ms_ssim", "ssimulacra2")
NAMED: Final = ("VVC (VTM)", "mbt2018-mean", "bmshj2018-hyperprior", "bmshj2018-factorized")
BEGIN, END = "<!-- numbers: written by benchmarks/docs.py -->", "<!-- end of numbers -->"
REPRODUCED: Final = {"JPEG (libjpeg, 4:2:0)": "jpeg-default=5,10,20,30,50,70,90,95", "WebP": "webp-default=5,20,40,60,80,90,95"}


def run(words: list[str]) -> str:
    """Standard output of a command of this project, which is also shown."""
    print(f"$ {shlex.join(words)}", file=sys.stderr, flush=True)
    command = [sys.executable, *(["-m", "fewbits.cli", *words[1:]] if words[0] == "fewbits" else words[1:])]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def bench(pictures: str, out: str, codecs: str, *more: str) -> list[str]:
    """The words of a `fewbits bench` whose report is runs/<out>."""
    words = ["fewbits", "bench", pictures, "--codecs", codecs, "--metrics", ",".join(METRICS), "--range", "0.12:1.6"]
    return [*words, *more, "--out", str(WORK / out)]


def tables(summary: str) -> list[str]:
    """The blocks of a summary: tables, each with the lines under it."""
    return [block for block in re.split(r"\n\n(?=\|)", summary.partition("\n\nruns/")[0]) if block.startswith("|")]


def reproduction(pictures: str, published: str) -> tuple[str, str]:
    """The command that compares measured with published JPEG and WebP, and the lines that say by how much they differ."""
    common = ["fewbits", "bench", pictures, "--metrics", "psnr", "--no-timing", "--viewer", "", "--out", str(WORK / "reproduced")]
    common += ["--codecs", "jpeg,jpeg-default,webp,webp-default", "--published", published]
    common += [word for settings in REPRODUCED.values() for word in ("--qualities", settings)]
    lines = []
    for name in REPRODUCED:
        said = run([*common, "--anchor", name])
        wanted = "JPEG" if name.startswith("JPEG") else "WebP"
        rates = dict(re.findall(r"\| (\S.*?) +\| +([+-][\d.]+ %) \|", said))
        own = {label: rate for label, rate in rates.items() if label.startswith(wanted) and "published" not in label}
        lines += [f"| {label} | {name} | {rate} |" for label, rate in own.items()]
    return shlex.join([*common, "--anchor", "NAME"]), "\n".join(
        ["| measured | against published | rate |", "|---|---|---:|", *lines]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", help="a folder of lossless photographs, as the README is to name it")
    parser.add_argument("--others", required=True, help="a folder of other photographs, of 2048 pixels or so")
    parser.add_argument("--published", required=True, help="the file of published curves")
    options = parser.parse_args()

    own = f"python benchmarks/docs.py {options.pictures} --others {options.others} --published {options.published}"
    published = ["--published", options.published, *(word for name in NAMED for word in ("--published-curve", name))]
    main_bench = bench(options.pictures, "kodak", CODECS, *published)
    # The same measurements against another anchor; before the other, whose report is to stay.
    avif_bench = bench(options.pictures, "kodak", CODECS, "--anchor", "avif")
    against_avif = tables(run(avif_bench))[0]
    other_bench = bench(options.others, "clic", OTHERS, "--no-timing", "--viewer", "", "--anchor", "avif")
    others_against_avif = tables(run(other_bench))[0]
    summary = run(main_bench)
    curves = (ROOT / WORK / "kodak" / "curves.md").read_text().strip()
    record = (ROOT / WORK / "kodak" / "record.txt").read_text().strip()
    speed_command = ["python", "benchmarks/speed.py", options.pictures]
    speed = run(speed_command)
    memory_command = ["python", "benchmarks/memory.py", "24", "--batch", "0"]
    memory = run(memory_command)
    again, reproduced = reproduction(options.pictures, options.published)
    for name in METRICS:
        shutil.copy(ROOT / WORK / "kodak" / f"rd-{name}.svg", ROOT / "docs" / f"rd-{name}.svg")

    first, *others = tables(summary)
    page = f"""# Benchmarks

Written by `{own}`; do not edit. Sizes are bytes on disk.
Metrics are taken picture by picture, curves are means over the pictures, comparisons are Bjontegaard rates by Akima interpolation
where both curves have points. At equal quality a negative rate is a smaller file.

```
{shlex.join(main_bench)}
```

![PSNR](rd-psnr.svg)

{first}

![MS-SSIM](rd-ms_ssim.svg)

![SSIMULACRA2](rd-ssimulacra2.svg)

{(chr(10) * 2).join(others)}

## Against AVIF, and on other pictures

The same measurements with AVIF (speed 6, 4:2:0) as the anchor, `{shlex.join(avif_bench)}`:

{against_avif}

Kodak's pictures are small and old. Those of the CLIC 2025 validation set, 2048 pixels wide or high, `{shlex.join(other_bench)}`:

{others_against_avif}

## Speed at equal quality, and memory

The table above is of each codec's own settings. `{shlex.join(speed_command)}`, where each peer works at the quality nearest to
fewbits' PSNR, printed:

```
{speed}
```

Peaks of whole processes, `{shlex.join(memory_command)}`:

```
{memory}
```

## Speed against size and threads

{SCALING_BEGIN}
{SCALING_END}

## Do the baselines reproduce?

Published JPEG was written with the standard's Huffman tables (Pillow without `optimize`), published WebP with method 4, Pillow's
default. With these (`jpeg-default`, `webp-default`) our measurement is theirs; the tables above use the better `jpeg` and `webp`.
`{again}` printed:

{reproduced}

## Every point

{curves}

## Measured with

```
{record}
```
"""
    (ROOT / "docs" / "benchmarks.md").write_text(page)
    run(["python", "benchmarks/scaling.py", options.pictures])  # writes its block
    readme = (ROOT / "README.md").read_text()
    block = f"{first.partition(chr(10) * 2)[0]}\n\n```\n{speed}\n```"
    (ROOT / "README.md").write_text(with_block(readme, BEGIN, END, block))


if __name__ == "__main__":
    main()
