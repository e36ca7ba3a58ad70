# SPDX-License-Identifier: MIT
"""Curves, comparisons, smallest files, wins and speeds of rows whose answers are known."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy")

from fewbits.bench.published import read_published  # noqa: E402
from fewbits.bench.summary import (  # noqa: E402
    comparisons,
    mean_curves,
    measured_pictures,
    smallest_files,
    speeds,
    whole_pictures,
    wins,
    without_broken_codecs,
)
from fewbits.errors import FewbitsError  # noqa: E402

SETTINGS = (10, 20, 30, 40, 50)


def made_rows(factors: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """factors: by codec and picture, by how much its bits per pixel are those of the base curve, 0.1 to 1.6 at 26 to 38 dB."""
    return [
        {
            "image": image, "width": 1000, "height": 1000, "codec": codec, "setting": setting, "bytes": 1, "error": "",
            "bpp": factor * 0.1 * 2**k, "psnr": 26.0 + 3 * k, "ms_ssim": 1 - 10 ** -(0.8 + 0.3 * k), "encode_s": 0.5 * factor,
            "decode_s": 0.25, "peak_mb": 100.0 * factor + k,
        }
        for codec, of_image in factors.items()
        for image, factor in of_image.items()
        for k, setting in enumerate(SETTINGS)
    ]  # fmt: skip


ROWS = made_rows(
    {"base": {"a": 1, "b": 1, "c": 1}, "half": {"a": 0.5, "b": 0.5, "c": 0.5}, "mixed": {"a": 0.9, "b": 0.8, "c": 1.5}}
)
CODECS: Sequence[str] = ("base", "half", "mixed")


def test_curves_are_means_over_pictures() -> None:
    curves = {(curve.codec, curve.metric): curve.points for curve in mean_curves(ROWS, CODECS, ["psnr", "ms_ssim"])}
    assert curves["half", "psnr"][1] == (20, pytest.approx(0.1), pytest.approx(29.0))
    assert curves["mixed", "psnr"][0][1] == pytest.approx(0.1 * (0.9 + 0.8 + 1.5) / 3)
    assert curves["base", "ms_ssim"][2][2] == pytest.approx(14)  # in dB


def test_bjontegaard_of_every_pair() -> None:
    found = {(c.metric, c.anchor, c.test): c for c in comparisons(mean_curves(ROWS, CODECS, ["psnr", "ms_ssim"]), CODECS)}
    assert len(found) == 12
    assert found["psnr", "base", "half"].rate_percent == pytest.approx(-50)
    assert found["psnr", "half", "base"].rate_percent == pytest.approx(100)
    assert found["psnr", "base", "half"].quality_gain == pytest.approx(3, abs=0.01)
    assert (found["psnr", "base", "half"].low, found["psnr", "base", "half"].high) == (26, 38)
    assert found["ms_ssim", "base", "half"].quality_gain == pytest.approx(3, abs=0.01)


def test_what_has_no_quality_in_common_is_refused_with_the_reason() -> None:
    far = [row | {"psnr": row["psnr"] + 20, "codec": "far"} for row in ROWS if row["codec"] == "base"]
    found = comparisons(mean_curves(ROWS + far, ["base", "far"], ["psnr"]), ["base"])[0]
    assert found.rate_percent is None and found.quality_gain is None
    assert found.reason == "the curves have no quality in common: they span 26.00 to 38.00 and 46.00 to 58.00"


def test_curves_without_a_rate_in_common_have_a_rate_difference_all_the_same() -> None:
    small = made_rows({"small": {"a": 0.01, "b": 0.01, "c": 0.01}})
    found = comparisons(mean_curves(ROWS + small, ["base", "small"], ["psnr"]), ["base"])[0]
    assert found.rate_percent == pytest.approx(-99) and (found.low, found.high) == (26, 38)
    assert found.quality_gain is None and found.reason.startswith("the curves have no rate in common")


def test_settings_may_fall_with_the_size_of_files() -> None:
    """As a quantizer's step does."""
    steps = [row | {"codec": "steps", "setting": 60 - row["setting"]} for row in ROWS if row["codec"] == "half"]
    curves = mean_curves(ROWS + steps, ["base", "steps"], ["psnr"])
    assert [point[0] for point in curves[1].points] == [50, 40, 30, 20, 10]
    assert comparisons(curves, ["base"])[0].rate_percent == pytest.approx(-50)


def test_a_setting_that_repeats_a_file_is_no_point_of_a_curve() -> None:
    """A coarse knob gives the same files at several settings."""
    again = [row | {"setting": 60} for row in ROWS if row["codec"] == "half" and row["setting"] == 50]
    rows = ROWS + again
    assert comparisons(mean_curves(rows, CODECS, ["psnr"]), ["base"])[0].rate_percent == pytest.approx(-50)
    assert smallest_files(rows, CODECS, {"psnr": [32.0]}) == smallest_files(ROWS, CODECS, {"psnr": [32.0]})
    assert wins(rows, CODECS, ["psnr"]) == wins(ROWS, CODECS, ["psnr"])


def test_a_codec_without_curves_keeps_no_other_from_smallest_files() -> None:
    few = [row | {"codec": "two points"} for row in ROWS if row["codec"] == "half" and row["setting"] < 30]
    found = {entry.codec: entry for entry in smallest_files(ROWS + few, [*CODECS, "two points"], {"psnr": [32.0]})}
    alone = {entry.codec: entry for entry in smallest_files(ROWS, CODECS, {"psnr": [32.0]})}
    assert {codec: found[codec] for codec in CODECS} == alone
    assert found["two points"].mean_bpp is None and found["two points"].reason.startswith("a curve needs at least")


def weak(codec: str, pictures: str) -> list[dict[str, Any]]:
    """A codec whose curve ends at 29 dB, but on some pictures."""
    rows = [row | {"codec": codec} for row in ROWS if row["codec"] == "base"]
    return [row if row["image"] in pictures else row | {"psnr": (row["psnr"] - 26) / 4 + 26} for row in rows]


@pytest.mark.parametrize(
    ("pictures", "kept", "n_shared"), [("", False, 3), ("a", False, 3), ("ab", True, 2), ("abc", True, 3)], ids=str
)
def test_a_weak_codec_keeps_no_other_from_smallest_files(pictures: str, kept: bool, n_shared: int) -> None:
    """It is left out where it reaches the quality on fewer than half as many pictures as another."""
    found = {entry.codec: entry for entry in smallest_files(ROWS + weak("weak", pictures), [*CODECS, "weak"], {"psnr": [32.0]})}
    assert all(found[codec].mean_bpp is not None and found[codec].n_pictures == n_shared for codec in CODECS)
    assert (found["weak"].mean_bpp is not None) == kept
    assert found["weak"].reason == ("" if kept else f"reached on {len(pictures)} of 3 pictures, too few to be compared")


def test_codecs_that_share_no_picture_are_left_out_until_the_others_do() -> None:
    rows = [*weak("one", "a"), *weak("two", "b"), *weak("three", "b")]
    found = {entry.codec: entry for entry in smallest_files(rows, ["one", "two", "three"], {"psnr": [32.0]})}
    assert found["one"].mean_bpp is not None and found["one"].n_pictures == 1
    assert found["two"].mean_bpp is None and found["three"].mean_bpp is None


def test_a_failed_row_takes_its_picture_out_of_every_mean() -> None:
    broken = {"error": "it broke", "bytes": None, "psnr": None}
    failed = [row | broken if row["image"] == "c" and row["codec"] == "base" else row for row in ROWS]
    assert whole_pictures(failed) == (["a", "b"], ["c"])
    curves = {curve.codec: curve.points for curve in mean_curves(failed, CODECS, ["psnr"])}
    assert curves["mixed"][0][1] == pytest.approx(0.085)
    assert {entry.n_pictures for entry in smallest_files(failed, CODECS, {"psnr": [30]})} == {2}


def test_wins_and_losses_picture_by_picture() -> None:
    found = {(w.anchor, w.test): w for w in wins(ROWS, CODECS, ["psnr"])}
    mixed = found["base", "mixed"]
    assert (mixed.n_wins, mixed.n_losses, mixed.n_undecided) == (2, 1, 0)
    assert mixed.median_percent == pytest.approx(-10)
    assert found["mixed", "base"].n_wins == 1
    equal = [row | {"codec": "equal"} for row in ROWS if row["codec"] == "base"]
    assert wins(ROWS + equal, ["base", "equal"], ["psnr"])[0].n_undecided == 3


def test_smallest_file_at_a_quality() -> None:
    found = {entry.codec: entry for entry in smallest_files(ROWS, CODECS, {"psnr": [32.0, 60.0]}) if entry.quality == 32}
    assert found["base"].mean_bpp == pytest.approx(0.4)
    assert found["half"].mean_bpp == pytest.approx(0.2)
    assert found["mixed"].mean_bpp == pytest.approx(0.4 * (0.9 + 0.8 + 1.5) / 3)
    beyond = [entry for entry in smallest_files(ROWS, CODECS, {"psnr": [60.0]})]
    assert all(entry.mean_bpp is None and "reached on 0 of 3 pictures, too few" in entry.reason for entry in beyond)


def test_speeds_are_ratios_to_the_reference() -> None:
    found = {speed.codec: speed for speed in speeds(ROWS, CODECS, "base")}
    assert found["half"].encode_mps == pytest.approx(4) and found["half"].encode_ratio == pytest.approx(2)
    assert found["half"].decode_ratio == pytest.approx(1)
    assert found["mixed"].peak_mb == pytest.approx(154)
    untimed = [row | {"encode_s": None, "decode_s": None, "peak_mb": None} for row in ROWS]
    assert speeds(untimed, CODECS, "base")[1].encode_ratio is None


def test_published_curves_give_published_rates(shared: Path) -> None:
    published = read_published(shared.parent / "reference" / "kodak-published.json", ["psnr", "ms_ssim"])
    found = {c.test: c for c in comparisons(published.curves, ["VVC (VTM)"]) if c.metric == "psnr"}
    known = {"BPG 4:4:4 (x265)": 22, "mbt2018-mean": 21, "cheng2020-anchor": 4, "JPEG (libjpeg, 4:2:0)": 208}
    for name, percent in known.items():
        assert found[name].rate_percent == pytest.approx(percent, abs=1), name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "--published"),
        ({"dataset": "d", "source": "s", "curves": {"x": 5}}, "it must be an object with dataset"),
        ("[]", "it must be an object with dataset, source and curves"),
        ({"dataset": "d", "source": "s", "curves": {"x": {"bpp": [1], "psnr": [1, 2]}}}, "x: bpp and psnr must be lists"),
        ({"dataset": "d", "source": "s", "curves": {"x": {"psnr": [1, 2]}}}, "x: bpp and psnr must be lists"),
    ],
)
def test_a_wrong_file_of_published_curves_is_refused(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "published.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(FewbitsError, match=said):
        read_published(path, ["psnr"])


def test_a_picture_without_a_finite_metric_leaves_that_metric_by_name() -> None:
    perfect = [
        row | {"psnr": math.inf} if (row["image"], row["codec"], row["setting"]) == ("a", "half", 50) else row for row in ROWS
    ]
    assert measured_pictures(perfect, "psnr") == (["b", "c"], {"a": "not finite, half 50 loses nothing"})
    assert measured_pictures(perfect, "ms_ssim") == (["a", "b", "c"], {})
    curves = {curve.codec: curve.points for curve in mean_curves(perfect, CODECS, ["psnr"])}
    assert curves["mixed"][0][1] == pytest.approx(0.1 * (0.8 + 1.5) / 2)
    small = [row | {"ms_ssim": None} if row["image"] == "b" else row for row in ROWS]
    assert measured_pictures(small, "ms_ssim")[1] == {"b": "too small for it"}


def test_a_codec_that_fails_everywhere_is_left_out_and_the_rest_compared() -> None:
    bad = [row | {"codec": "bad", "bytes": None, "error": "no such thing"} for row in ROWS if row["codec"] == "base"]
    once = [row | {"bytes": None, "error": "once"} if row["image"] == "a" and row["codec"] == "half" else row for row in ROWS]
    kept, broken = without_broken_codecs(once + bad, [*CODECS, "bad"])
    assert kept == once and broken == {"bad": "no such thing"}
