# SPDX-License-Identifier: MIT
"""What `fewbits bench` and `fewbits compare` do, from the command line's words to the files of a report."""

import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from fewbits.bench import metrics as metric_table
from fewbits.bench import summary
from fewbits.bench.bjontegaard import EVERYTHING, BppRange
from fewbits.bench.codecs import Codec, bench_precision, find_codec, with_settings
from fewbits.bench.external import TIME_LIMIT_S, parse_command
from fewbits.bench.gallery import write_gallery
from fewbits.bench.journal import Journal
from fewbits.bench.matched import viewer_pictures
from fewbits.bench.measure import Plan, Row, column_names, find_pictures, measure, same_size
from fewbits.bench.metrics import METRICS
from fewbits.bench.plots import COLOURS, PUBLISHED_COLOUR, Style, plot
from fewbits.bench.published import Published, read_published
from fewbits.bench.record import record
from fewbits.bench.report import CodecInfo, MetricInfo, ReportData, write_report
from fewbits.bench.text import curves as curves_text
from fewbits.bench.text import summary as summary_text
from fewbits.codec import inspect, model_of
from fewbits.container import MAGIC
from fewbits.errors import FewbitsError, ImageError
from fewbits.files import no_folder, replacing
from fewbits.picture import opaque_bytes
from fewbits.picturefile import read_picture
from fewbits.processor import cores

DEFAULT_CODECS: Final = ("few", "jpeg", "jpeg2000", "webp", "avif")
TABLE, JOURNAL, RECORD, SUMMARY, CURVES = "table.csv", "journal.jsonl", "record.txt", "summary.md", "curves.md"
VIEWER, GALLERY, PLOT = "viewer", "gallery", "rd-"  # folders, and the beginning of names
REPORT: Final = "report.html"


@dataclass(frozen=True)
class Options:
    """The words of `fewbits bench`; see its help. Lists hold each word of a repeated option, comma-separated ones too."""

    roots: Sequence[Path]
    out: Path
    codecs: Sequence[str] = ()
    commands: Sequence[str] = ()
    qualities: Sequence[str] = ()
    metrics: Sequence[str] = ()
    published: Path | None = None
    published_names: Sequence[str] = ()
    anchor: str | None = None
    speed_reference: str | None = None
    bpp_range: str | None = None
    levels: Sequence[str] = ()
    jobs: int | None = None
    threads: int | None = None
    limit: int | None = None
    timing: bool = True
    gallery: bool = False
    viewer_bpp: Sequence[str] = ("0.5",)
    viewer_mb: float = 60.0
    time_limit_s: float = TIME_LIMIT_S


def _is_of_report(out: Path, path: Path) -> bool:
    """Whether an earlier run wrote a picture: a report may lie among the pictures that it is of."""
    path = path.resolve()
    return path.is_relative_to(out) and (
        path.relative_to(out).parts[0] in (VIEWER, GALLERY) or (path.parent == out and path.name.startswith(PLOT))
    )


def run_bench(options: Options) -> int:
    """Everything behind `fewbits bench`; prints the summary and returns how many rows failed."""
    names = _metric_names(options.metrics)
    codecs = _codecs(options)
    reference = _one_of("--speed-reference", options.speed_reference, [codec.name for codec in codecs], "avif")
    bpp_range, levels = _bpp_range(options.bpp_range), _levels(options.levels, names)
    viewer_bpp = [_number("--viewer", word, above=0) for word in _split(options.viewer_bpp)]
    _number("--viewer-mb", str(options.viewer_mb))
    _number("--time-limit", str(options.time_limit_s), above=0)
    published = read_published(options.published, names, options.published_names) if options.published else None
    drawn_too = list(dict.fromkeys(curve.codec for curve in published.curves)) if published else []
    if both := [name for name in drawn_too if name in [codec.name for codec in codecs]]:
        raise FewbitsError(f"--published: a curve is called {both[0]}, as a measured codec is: rename one")
    anchor = _one_of("--anchor", options.anchor, [*(codec.name for codec in codecs), *drawn_too], "jpeg")
    pictures = find_pictures(options.roots, options.limit, partial(_is_of_report, options.out.resolve()))
    plan = Plan(pictures, tuple(codecs), names, options.jobs or cores(), options.threads or cores(), options.timing)
    try:
        journal = Journal(options.out / JOURNAL)
    except OSError as error:
        raise FewbitsError(f"--out {options.out}: {no_folder(options.out, error)}") from error
    try:
        try:
            rows = measure(plan, journal)
        except KeyboardInterrupt:
            print(f"\ninterrupted: the same command goes on from {options.out / JOURNAL}", file=sys.stderr)
            raise
        write_table(options.out / TABLE, rows, column_names(names))
        facts = record({codec.name: codec.identity() for codec in codecs})
        _write_text(options.out / RECORD, "".join(f"{label}: {text}\n" for label, text in facts.items()))
        sound, broken = summary.without_broken_codecs(rows, [codec.name for codec in codecs])
        working = [codec for codec in codecs if codec.name not in broken]
        whole, left_out = summary.whole_pictures(sound)
        notes = _notes(sound, broken, left_out, names, published)
        shown: Sequence[Any] = ()
        if viewer_bpp and whole:
            wanted = [picture for picture in pictures if picture.name in whole]
            sizes = {row["image"]: (row["width"], row["height"]) for row in sound}
            folder = options.out / VIEWER
            shown, more = viewer_pictures(
                wanted,
                sizes,
                working,
                names,
                viewer_bpp,
                folder,
                journal,
                jobs=plan.jobs,
                limit_bytes=round(options.viewer_mb * 1e6),
            )
            notes += more
    finally:
        journal.close()
    if not working:
        raise FewbitsError(f"nothing could be measured: {next(iter(broken.values()))}")
    anchor = working[0].name if anchor in broken else anchor
    data = _report_data(
        sound, working, names, published, facts, notes=notes, anchor=anchor, speed_reference=reference, bpp_range=bpp_range,
        levels=levels, viewer=tuple(shown), title=_title(options.roots, len(whole)),
    )  # fmt: skip
    styles = {codec.name: Style(codec.label, codec.colour, codec.published) for codec in data.codecs}
    for old in [*options.out.glob(f"{PLOT}*.svg"), *options.out.glob(f"{PLOT}*.png")]:
        old.unlink()  # of an earlier run, perhaps of other metrics
    for name in names:
        drawn = [curve for curve in data.curves if curve.metric == name and len(curve.points) > 1]
        if any(not styles[curve.codec].published for curve in drawn):
            for suffix in (".svg", ".png"):
                plot(options.out / f"{PLOT}{name}{suffix}", drawn, styles, data.title)
    if options.gallery:
        failed = write_gallery(pictures, working, rows, names, options.out / GALLERY, plan.jobs)
        data = replace(data, notes=(*data.notes, *failed))
    write_report(options.out / REPORT, data)
    text = summary_text(data)
    _write_text(options.out / SUMMARY, f"# {data.title}\n\n{text}\n")
    _write_text(options.out / CURVES, curves_text(data))
    print(f"{text}\n\n{options.out / REPORT} shows it all; {options.out / TABLE} has the {len(rows)} rows")
    return sum(bool(row["error"]) for row in rows)


def _notes(
    rows: Sequence[Any], broken: Mapping[str, str], left_out: Sequence[str], names: Sequence[str], published: Published | None
) -> list[str]:
    """What a reader must know before the numbers."""
    notes = [f"{codec} failed on every picture and is left out, first with: {error}" for codec, error in broken.items()]
    if left_out:
        n_all = len({row["image"] for row in rows})
        notes.append(f"{len(left_out)} of {n_all} pictures are in no mean, since a row of theirs failed: {', '.join(left_out)}")
    for name in names:
        measured, why = summary.measured_pictures(rows, name)
        if why:
            first, reason = next(iter(why.items()))
            notes.append(f"{METRICS[name].label} is of {len(measured)} pictures, without {len(why)}, the first {first}: {reason}")
    if published:
        notes.append(f"published curves are of {published.dataset}; compare with them what is measured on the same pictures")
    return notes


def run_compare(first: Path, second: Path, names: Sequence[str]) -> None:
    """Print all metrics of two pictures of one size, which may be .few files."""
    wanted = _metric_names(names) if names else tuple(name for name in METRICS if name != "lpips" or _has_lpips())
    original, decoded = (_pixels(path) for path in (first, second))
    try:
        same_size(decoded, original)
    except ImageError as error:
        sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (original, decoded)]
        raise ImageError(f"{first} has {sizes[0]} pixels, {second} has {sizes[1]}: they must be of one size") from error
    for name, value in metric_table.measure(wanted, original, decoded).items():
        print(f"{name:12} {'too small for it' if value is None else f'{value:.6g}'}")


def write_table(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Rows as CSV, UTF-8; what is not known is empty."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows(rows)
    _write_text(path, text.getvalue())


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode("utf-8", "replace"))


def _pixels(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    if not data.startswith(MAGIC):
        return opaque_bytes(read_picture(data, str(path)), str(path))
    return opaque_bytes(model_of(inspect(data), precision=bench_precision()).decode_picture(data), str(path))


def _has_lpips() -> bool:
    try:
        _check_lpips()
    except FewbitsError:
        return False
    return True


def _check_lpips() -> None:
    try:
        from fewbits.bench.lpips import weight_files
    except ImportError as error:
        raise FewbitsError(f"--metrics lpips needs {error.name}, which is not installed") from error
    weight_files()


def _split(words: Sequence[str]) -> list[str]:
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def _number(option: str, word: str, above: float | None = None) -> float:
    """A finite number of 0 or more, or above `above`. Raises FewbitsError that names the option."""
    try:
        value = float(word)
    except ValueError as error:
        raise FewbitsError(f"{option}: {word!r} is not a number") from error
    if not (0 <= value < float("inf") and (above is None or value > above)):
        raise FewbitsError(f"{option}: {word} must be {'0 or more' if above is None else f'above {above:g}'}, and finite")
    return value


def _metric_names(words: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(_split(words))) or metric_table.DEFAULT_METRICS
    for name in names:
        if name not in METRICS:
            raise FewbitsError(f"--metrics {name}: it must be one of {', '.join(METRICS)}")
    if "lpips" in names:
        _check_lpips()
    return names


def _one_of(option: str, word: str | None, names: Sequence[str], preferred: str) -> str:
    if word is None:
        return preferred if preferred in names else names[0]
    if word not in names:
        raise FewbitsError(f"{option} {word}: it must be one of {', '.join(names)}")
    return word


def _bpp_range(word: str | None) -> BppRange:
    if word is None:
        return EVERYTHING
    low, colon, high = word.partition(":")
    if not colon:
        raise FewbitsError(f"--range {word}: it must be LOW:HIGH in bits per pixel, such as 0.12:1.6")
    ends = _number("--range", low), _number("--range", high)
    if not ends[0] < ends[1]:
        raise FewbitsError(f"--range {word}: the first must be below the second")
    return ends


def _levels(words: Sequence[str], names: Sequence[str]) -> Mapping[str, Sequence[float]]:
    if not words:
        return {name: levels for name, levels in summary.DEFAULT_LEVELS.items() if name in names}
    levels: dict[str, list[float]] = {}
    for word in _split(words):
        name, equals, value = word.partition("=")
        if not equals or name not in names:
            raise FewbitsError(f"--at {word}: it must be METRIC=QUALITY with a metric that is measured, {', '.join(names)}")
        levels.setdefault(name, []).append(_number(f"--at {word}", value))
    return levels


def _codecs(options: Options) -> list[Codec]:
    codecs = [find_codec(name) for name in _split(options.codecs) or ([] if options.commands else DEFAULT_CODECS)]
    codecs += [parse_command(text, options.time_limit_s) for text in options.commands]
    names = [codec.name for codec in codecs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FewbitsError(f"--codecs: two are called {twice[0]}; a bundle's name is that of its folder")
    for word in options.qualities:
        match = re.fullmatch(r"([^=]+)=([^=]+)", word)
        if match is None or match[1] not in names:
            raise FewbitsError(f"--qualities {word}: it must be CODEC=N,N,... with one of {', '.join(names)}")
        settings = [_number(f"--qualities {word}", part) for part in _split([match[2]])]
        place = names.index(match[1])
        codecs[place] = with_settings(codecs[place], settings)
    return codecs


def _title(roots: Sequence[Path], n_pictures: int) -> str:
    return f"{', '.join(root.resolve().name for root in roots)}, {n_pictures} picture{'s' if n_pictures != 1 else ''}"


def _report_data(
    rows: Sequence[Mapping[str, Any]],
    codecs: Sequence[Codec],
    names: Sequence[str],
    published: Published | None,
    facts: Mapping[str, str],
    *,
    notes: Sequence[str],
    anchor: str,
    speed_reference: str,
    bpp_range: BppRange,
    levels: Mapping[str, Sequence[float]],
    viewer: tuple[Any, ...],
    title: str,
) -> ReportData:
    own = [codec.name for codec in codecs]
    curves = [*summary.mean_curves(rows, own, names), *(published.curves if published else ())]
    others = list(dict.fromkeys(curve.codec for curve in published.curves)) if published else []
    infos = [CodecInfo(codec.name, codec.label, COLOURS[k % len(COLOURS)], False) for k, codec in enumerate(codecs)]
    infos += [CodecInfo(name, name, PUBLISHED_COLOUR, True) for name in others]
    facts = dict(facts)
    if published:
        facts["published curves"] = f"{published.dataset}; {published.source}; drawn dashed, not measured here"
    if bpp_range != EVERYTHING:
        facts["compared at"] = f"{bpp_range[0]:g} to {bpp_range[1]:g} bits per pixel"
    return ReportData(
        title=title,
        date=facts["date"],
        metrics=tuple(MetricInfo(name, METRICS[name].label, METRICS[name].unit, True) for name in names),
        codecs=tuple(infos),
        curves=tuple(curve for curve in curves if curve.points),
        anchor=anchor,
        record=facts,
        notes=tuple(notes),
        bjontegaard=tuple(summary.comparisons(curves, [*own, *others], bpp_range)),
        smallest=tuple(summary.smallest_files(rows, own, levels)),
        wins=tuple(summary.wins(rows, own, names, bpp_range)),
        speed=tuple(summary.speeds(rows, own, speed_reference)),
        speed_reference=speed_reference if speed_reference in own else own[0],
        histogram_metrics=tuple(name for name in names if name in ("ms_ssim", "ssimulacra2")) or tuple(names[:1]),
        rows=tuple(dict(row) | {name: metric_table.on_axis(name, row[name]) for name in names} for row in rows),
        viewer=viewer,
    )
