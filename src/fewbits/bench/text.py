# SPDX-License-Identifier: MIT
"""The summary as Markdown, for the terminal, for REPORT/summary.md and for docs/benchmarks.md."""

import re
from collections.abc import Mapping, Sequence

from fewbits.bench.metrics import METRICS
from fewbits.bench.report import ReportData
from fewbits.bench.summary import Comparison


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in plain text; all but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = [("-" * width) if k == 0 else "-" * (max(width, 2) - 1) + ":" for k, width in enumerate(widths)]
    lines = [
        " | ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, rule, *rows)
    ]
    return "\n".join(f"| {line} |" for line in lines)


def with_block(page: str, begin: str, end: str, text: str) -> str:
    """The page with another text between the lines `begin` and the next `end`."""
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)


def summary(data: ReportData) -> str:
    """Bjontegaard against the report's anchor, smallest files, wins and losses, speeds; and what a reader must know."""
    labels = {codec.name: codec.label + (", published" if codec.published else "") for codec in data.codecs}
    parts = [bjontegaard_table(data, labels)]
    if data.smallest:
        parts.append(_smallest_table(data, labels))
    if any(entry.anchor == data.anchor for entry in data.wins):
        parts.append(_wins_table(data, labels))
    if any(speed.encode_mps is not None for speed in data.speed):
        parts.append(_speed_table(data, labels))
    return "\n\n".join([*parts, *(f"- {note}" for note in data.notes)])


def bjontegaard_table(data: ReportData, labels: Mapping[str, str]) -> str:
    """Rate difference in percent against the anchor, a column for each metric, lowest first; below, why what is missing is."""
    own = {(entry.test, entry.metric): entry for entry in data.bjontegaard if entry.anchor == data.anchor}
    metrics = [metric.name for metric in data.metrics]
    tests = list(dict.fromkeys(test for test, _ in own))

    def rank(test: str) -> float:
        entry = own.get((test, metrics[0]))
        return entry.rate_percent if entry and entry.rate_percent is not None else float("inf")

    rows = [[labels[test], *(_rate(own.get((test, metric))) for metric in metrics)] for test in sorted(tests, key=rank)]
    head = [f"Bjontegaard rate against {labels[data.anchor]}", *(METRICS[metric].label for metric in metrics)]
    lines = [table(head, rows)]
    spans = [entry for entry in own.values() if entry.test in tests and entry.rate_percent is not None]
    for metric in metrics:
        of_metric = [entry for entry in spans if entry.metric == metric]
        lows, highs = ([getattr(entry, end) for entry in of_metric] for end in ("low", "high"))
        if of_metric:
            unit = f" {METRICS[metric].unit}".rstrip()
            lines.append(
                f"- {METRICS[metric].label}, compared where both curves have points: from {_ends(lows)} to {_ends(highs)}{unit}"
            )
    missing = [entry for entry in own.values() if entry.rate_percent is None]
    lines += [f"- {labels[entry.test]}, {METRICS[entry.metric].label}: {entry.reason}" for entry in missing]
    return "\n".join([lines[0], "", *lines[1:]])


def curves(data: ReportData) -> str:
    """Every point of the measured curves: a table for each codec."""
    parts = []
    for codec in (codec for codec in data.codecs if not codec.published):
        own = {curve.metric: curve for curve in data.curves if curve.codec == codec.name}
        values = {metric: {point[0]: point[2] for point in curve.points} for metric, curve in own.items()}
        head = ["setting", "bits per pixel", *(f"{METRICS[metric].label} {METRICS[metric].unit}".rstrip() for metric in own)]
        rows = (
            [
                [f"{setting:g}", f"{bpp:.4f}", *(_number(values[metric].get(setting)) for metric in own)]
                for setting, bpp, _ in next(iter(own.values())).points
            ]
            if own
            else []
        )
        parts.append(f"### {codec.label}\n\n{table(head, rows)}" if rows else f"### {codec.label}\n\nno picture was measured")
    return "\n\n".join(parts) + "\n"


def _smallest_table(data: ReportData, labels: Mapping[str, str]) -> str:
    codecs = list(dict.fromkeys(entry.codec for entry in data.smallest))
    levels = list(dict.fromkeys((entry.metric, entry.quality) for entry in data.smallest))
    by_place = {(entry.metric, entry.quality, entry.codec): entry for entry in data.smallest}
    rows = []
    for metric, quality in levels:
        entries = [by_place[metric, quality, codec] for codec in codecs]
        found = [entry.mean_bpp for entry in entries if entry.mean_bpp is not None]
        cells = ["-" if e.mean_bpp is None else f"{e.mean_bpp:.3f}" + ("*" if e.mean_bpp == min(found) else "") for e in entries]
        rows.append([_at(metric, quality), str(entries[0].n_pictures), *cells])
    text = table(["bits per pixel at", "pictures", *(labels[codec] for codec in codecs)], rows)
    lines = ["\\* the smallest; means over the pictures on which every codec that has a number reaches that quality"]
    missing = [entry for entry in data.smallest if entry.mean_bpp is None]
    lines += [f"- {labels[e.codec]}, {_at(e.metric, e.quality)}: {e.reason}" for e in missing]
    return text + "\n\n" + "\n".join([lines[0], *([""] if missing else []), *lines[1:]])


def _at(metric: str, quality: float) -> str:
    return f"{METRICS[metric].label} {quality:g} {METRICS[metric].unit}".rstrip()


def _wins_table(data: ReportData, labels: Mapping[str, str]) -> str:
    own = [entry for entry in data.wins if entry.anchor == data.anchor]
    rows = [
        [
            labels[entry.test], METRICS[entry.metric].label, str(entry.n_wins), str(entry.n_losses), str(entry.n_undecided),
            "-" if entry.median_percent is None else f"{entry.median_percent:+.1f} %",
        ]
        for entry in own
    ]  # fmt: skip
    return table(
        [f"Picture by picture against {labels[data.anchor]}", "metric", "smaller", "larger", "undecided", "median"], rows
    )


def _speed_table(data: ReportData, labels: Mapping[str, str]) -> str:
    rows = [
        [
            labels[speed.codec], _number(speed.encode_mps), _ratio(speed.encode_ratio), _number(speed.decode_mps),
            _ratio(speed.decode_ratio), "-" if speed.peak_mb is None else f"{speed.peak_mb:.0f}",
        ]
        for speed in data.speed
    ]  # fmt: skip
    reference = labels[data.speed_reference]
    head = ["Speed, medians", "encode MP/s", f"of {reference}'s", "decode MP/s", f"of {reference}'s", "peak MB"]
    return table(head, rows)


def _rate(entry: Comparison | None) -> str:
    return "-" if entry is None or entry.rate_percent is None else f"{entry.rate_percent:+.1f} %"


def _ends(values: Sequence[float]) -> str:
    """The least and the largest of values, or the one."""
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"({low} ... {high})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x" if value >= 0.1 else f"1/{1 / value:.0f}"
