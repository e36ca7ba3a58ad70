# SPDX-License-Identifier: MIT
"""`fewbits bench` and `fewbits compare` from the command line: real files, resumed runs, failures that are told."""

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

for needed in ("matplotlib", "plotly", "scipy", "tqdm"):
    pytest.importorskip(needed)

from fewbits import cli, encode  # noqa: E402
from fewbits.bench import measure  # noqa: E402
from fewbits.bench.journal import Journal  # noqa: E402
from fewbits.fidelity import psnr  # noqa: E402

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--metrics", "psnr,ms_ssim", "--no-timing", "--viewer", "", "--jobs", "1")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run(words...) -> exit status, stdout, stderr of the `fewbits` command."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fewbits", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    """Two pictures, one of them in a folder of its own."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "more").mkdir()
    Image.fromarray(photo[:192, :240]).save(root / "one.png")
    Image.fromarray(photo[200:400, 100:300]).save(root / "more" / "two.png")
    (root / "notes.txt").write_text("no picture")
    return root


def table(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_measured_and_shown(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    words = ("--codecs", "few,jpeg", "--metrics", "psnr,ssimulacra2", "--viewer", "1.5", "--gallery", "--jobs", "1")
    status, said, _ = run("bench", folder, *words, "--qualities", "few=20,50,70,90", "--out", out)
    assert status == 0
    rows = table(out)
    assert [(row["image"], row["codec"], float(row["setting"])) for row in rows][:5] == [
        ("more/two.png", "few", 20), ("more/two.png", "few", 50), ("more/two.png", "few", 70), ("more/two.png", "few", 90),
        ("more/two.png", "jpeg", 10),
    ]  # fmt: skip
    assert len(rows) == 2 * (4 + 7)
    for row in rows:
        assert float(row["bpp"]) == pytest.approx(8 * int(row["bytes"]) / (int(row["width"]) * int(row["height"])))
        assert float(row["psnr"]) > 20 and float(row["ssimulacra2"]) <= 100
        assert float(row["encode_s"]) > 0 and float(row["decode_s"]) > 0 and row["error"] == ""
        if sys.platform == "linux":
            assert 20 < float(row["peak_mb"]) < 4000
    names = ("record.txt", "summary.md", "report.html", "rd-psnr.svg", "rd-psnr.png", "rd-ssimulacra2.svg")
    assert all((out / name).stat().st_size > 100 for name in names)
    record = (out / "record.txt").read_text()
    assert "command: fewbits bench" in record and "codec few: model " in record and "Pillow" in record and "CPU: " in record
    assert "Bjontegaard rate against JPEG" in said and "| fewbits" in said
    with Image.open(out / "gallery" / "more-two-jpeg.png") as sheet:
        assert sheet.width > 4 * 200
    assert len(list((out / "gallery").iterdir())) == 4
    html = (out / "report.html").read_text()
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', html, re.DOTALL)[1])  # type: ignore[index]
    assert len(data["rows"]) == len(rows)
    for shown in data["viewer"]:
        for version in shown["levels"][0]["versions"]:
            assert version["n_bytes"] <= shown["levels"][0]["n_bytes"]
            assert version["n_bytes"] > 0.8 * shown["levels"][0]["n_bytes"]


def test_a_second_call_measures_nothing_and_a_further_metric_only_that(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report"
    words = ("bench", folder, "--codecs", "jpeg,webp", "--out", out)
    assert run(*words, *QUICK)[0] == 0
    first, journal = table(out), (out / "journal.jsonl").read_bytes()
    monkeypatch.setattr(measure, "in_processes", lambda work, tasks, *rest: iter([] if not tasks else [1 / 0]))
    assert run(*words, *QUICK)[0] == 0
    assert table(out) == first and (out / "journal.jsonl").read_bytes() == journal
    monkeypatch.undo()
    more = ("bench", folder, "--codecs", "jpeg,webp", "--out", out, *QUICK, "--metrics", "mse")
    monkeypatch.setattr(sys, "argv", [])
    asked = []
    original = measure.metrics.measure
    monkeypatch.setattr(measure.metrics, "measure", original)
    monkeypatch.setattr(
        measure, "in_processes", lambda work, tasks, *rest: [asked.append(task.metrics) or (task, work(task)) for task in tasks]
    )
    assert run(*more)[0] == 0
    assert set(asked) == {("mse",)}
    assert [row["psnr"] for row in table(out)] == [row["psnr"] for row in first]


def test_a_report_among_the_pictures_is_not_measured(run: Run, tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo[:64, :64]).save(tmp_path / "a.png")
    (tmp_path / "rd-own").mkdir()
    Image.fromarray(photo[64:128, :64]).save(tmp_path / "rd-own" / "b.png")
    for out in (tmp_path / "report", tmp_path):
        for _ in range(2):
            words = ["--codecs", "jpeg,webp", "--metrics", "psnr", "--no-timing", "--gallery", "--qualities", "jpeg=20,40,60,80"]
            words += ["--qualities", "webp=20,40,60,80"]
            assert run("bench", tmp_path, "--out", out, *words)[0] == 0
            assert {row["image"] for row in table(out)} == {"a.png", "rd-own/b.png"}
        shutil.rmtree(tmp_path / "report", ignore_errors=True)


def test_an_interrupted_run_goes_on(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    words = ("bench", folder, "--codecs", "jpeg", "--out", out, *QUICK)
    assert run(*words)[0] == 0
    first = table(out)
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:20])
    (out / "table.csv").unlink()
    assert run(*words)[0] == 0
    assert table(out) == first


def test_what_fails_has_a_row_that_says_why_and_the_rest_goes_on(run: Run, tmp_path: Path, photo: np.ndarray) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(photo[:170, :180]).save(pictures / "good.png")
    Image.fromarray(photo[:200, :170]).save(pictures / "other.png")
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    script = tmp_path / "codec.py"
    script.write_text(
        "import sys\nfrom PIL import Image\npicture = Image.open(sys.argv[1])\n"
        "if picture.height == 200: sys.exit('it is too tall')\n"
        "if len(sys.argv) > 3 and sys.argv[3] == '20': picture = picture.crop((0, 0, 50, 60))\n"
        "picture.save(sys.argv[2], 'PNG')\n"
    )
    command = f"mine: {sys.executable} {script} {{in}} {{out}} {{q}} ;; {sys.executable} {script} {{in}} {{out}}"
    out = tmp_path / "report"
    status, _, err = run(
        "bench", pictures, "--codecs", "jpeg", "--command", command, "--qualities", "mine=10,20", "--out", out, *QUICK
    )
    assert status == 1
    assert err.splitlines()[-1] == f"fewbits: 4 rows failed: the column `error` of {out}/table.csv says why"
    errors = {(row["image"], row["codec"], row["setting"]): row["error"] for row in table(out) if row["error"]}
    assert len(errors) == 4
    assert "broken.png" in errors["broken.png", "", ""]
    assert errors["other.png", "mine", "10.0"].endswith("ended with 1: it is too tall")
    assert errors["good.png", "mine", "20.0"] == "the picture has 180x170 pixels, decoded it has 50x60"
    good = [row for row in table(out) if row["image"] == "good.png" and row["codec"] == "mine"]
    assert good[0]["psnr"] == "inf" and good[0]["error"] == ""
    assert "mine failed on every picture and is left out, first with: " in (out / "report.html").read_text()
    assert "| JPEG" in (out / "summary.md").read_text() or "JPEG" in (out / "curves.md").read_text()


def test_pictures_are_measured_as_codecs_get_them(run: Run, tmp_path: Path, photo: np.ndarray) -> None:
    """Upright, 16 bits scaled down and not cut off, transparency refused: as `fewbits encode` has it."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    lying = Image.Exif()
    lying[0x0112] = 6
    Image.fromarray(photo[:170, :200]).save(pictures / "lying.png", exif=lying)
    Image.fromarray(photo[:170, :200, 0].astype(np.uint16) * 257).save(pictures / "deep.png")
    Image.fromarray(np.dstack([photo[:40, :40], photo[:40, :40, 0]])).save(pictures / "through.png")
    out = tmp_path / "report"
    assert run("bench", pictures, "--codecs", "jpeg", "--out", out, *QUICK)[0] == 1
    rows = {(row["image"], row["setting"]): row for row in table(out)}
    assert (rows["lying.png", "90.0"]["width"], rows["lying.png", "90.0"]["height"]) == ("170", "200")
    assert float(rows["deep.png", "90.0"]["psnr"]) > 30
    assert "transparent" in rows["through.png", ""]["error"]
    (tmp_path / "x.few").write_bytes(encode(Image.open(pictures / "lying.png"), 50))
    status, said, _ = run("compare", pictures / "lying.png", tmp_path / "x.few", "--metrics", "psnr")
    assert status == 0 and float(said.split()[1]) > 25


def test_a_folder_of_flat_pictures_gives_a_report_without_curves(run: Run, tmp_path: Path) -> None:
    """Every codec brings them back as they were: there is no finite PSNR, and nothing to draw."""
    Image.new("RGB", (64, 64)).save(tmp_path / "flat.png")
    words = ("--codecs", "jpeg,webp", "--metrics", "psnr", *QUICK[2:])
    status, said, _ = run("bench", tmp_path / "flat.png", *words, "--out", tmp_path / "report")
    assert status == 0 and "PSNR (RGB) is of 0 pictures, without 1, the first flat.png: not finite" in said
    assert (tmp_path / "report" / "report.html").exists() and not list((tmp_path / "report").glob("rd-*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--codecs", "jpg"), "--codecs jpg: neither a codec"),
        (("--metrics", "psrn"), "--metrics psrn: it must be one of mse, psnr"),
        (("--qualities", "avif=10"), "--qualities avif=10: it must be CODEC=N,N,... with one of jpeg"),
        (("--qualities", "jpeg=x"), "--qualities jpeg=x: 'x' is not a number"),
        (("--qualities", "jpeg=150"), "--qualities jpeg: 150, it must be 1 to 100"),
        (("--viewer", "0"), "--viewer: 0 must be above 0"),
        (("--viewer-mb", "-3"), "--viewer-mb: -3.0 must be 0 or more"),
        (("--range", "1.6"), "--range 1.6: it must be LOW:HIGH"),
        (("--range", "2:1"), "--range 2:1: the first must be below the second"),
        (("--at", "ssim=3"), "--at ssim=3: it must be METRIC=QUALITY"),
        (("--anchor", "webp"), "--anchor webp: it must be one of jpeg"),
        (("--command", "jpeg: a {in} {out} {q} ;; b {in} {out}"), "two are called jpeg"),
        (("--published", "no-such.json"), "--published no-such.json"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_measured(
    words: tuple[str, str], said: str, run: Run, folder: Path, tmp_path: Path
) -> None:
    status, _, err = run("bench", folder, "--codecs", "jpeg", "--out", tmp_path / "report", "--metrics", "psnr", *words)
    assert status == 1 and said in err and len(err.splitlines()) == 1
    assert not (tmp_path / "report").exists()


def test_a_folder_without_pictures_is_refused(run: Run, tmp_path: Path) -> None:
    assert "no pictures" in run("bench", tmp_path, "--out", tmp_path / "report")[2]
    assert "no such file or folder" in run("bench", tmp_path / "nowhere", "--out", tmp_path / "report")[2]


def test_codecs_take_turns_while_they_are_timed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewbits.bench.codecs import JPEG, WEBP, with_settings

    codecs = tuple(with_settings(codec, [10, 90]) for codec in (JPEG, WEBP))
    plan = measure.Plan(measure.find_pictures([folder]), codecs, ("psnr",), jobs=1, threads=2)
    order = []
    here = lambda work, tasks, *rest: [(task, work(task)) for task in tasks]  # noqa: E731
    timed = lambda work, tasks, *rest: [order.append(task.cell.id) or (task, work(task)) for task in tasks]  # noqa: E731
    monkeypatch.setattr(measure, "in_processes", here)
    monkeypatch.setattr(measure, "one_at_a_time", timed)
    journal = Journal(tmp_path / "journal")
    measure.measure(plan, journal)
    journal.close()
    assert [cell[1:] for cell in order] == [("jpeg", 10), ("webp", 10), ("jpeg", 90), ("webp", 90)] * 2


def test_compare_prints_every_metric(run: Run, photo: np.ndarray, tmp_path: Path) -> None:
    part = photo[:176, :192]
    Image.fromarray(part).save(tmp_path / "a.png")
    Image.fromarray(part).save(tmp_path / "b.jpg", quality=40)
    (tmp_path / "c.few").write_bytes(encode(part, 50))
    status, said, _ = run("compare", tmp_path / "a.png", tmp_path / "b.jpg")
    values = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert status == 0
    assert {"mse", "psnr", "psnr_y", "ssim", "ms_ssim", "ms_ssim_db", "ssimulacra2"} <= set(values)
    with Image.open(tmp_path / "b.jpg") as picture:
        assert float(values["psnr"]) == pytest.approx(psnr(part, np.asarray(picture)), rel=1e-4)
    status, said, _ = run("compare", tmp_path / "a.png", tmp_path / "c.few", "--metrics", "psnr")
    assert status == 0 and len(said.splitlines()) == 1
    Image.fromarray(part[:50]).save(tmp_path / "small.png")
    status, _, err = run("compare", tmp_path / "a.png", tmp_path / "small.png")
    assert status == 1 and "192x176 pixels" in err and "192x50" in err and "of one size" in err
    assert "no-such.png" in run("compare", tmp_path / "no-such.png", tmp_path / "a.png")[2]


def test_on_kodak_jpeg_and_webp_are_the_published_ones(run: Run, shared: Path, tmp_path: Path) -> None:
    """Published JPEG has the standard's Huffman tables, published WebP method 4: see docs/benchmarks.md."""
    published = shared.parent / "reference" / "kodak-published.json"
    qualities = "jpeg-default=5,10,20,30,50,70,90,95"
    status, said, _ = run(
        "bench", shared / "kodak", "--codecs", "jpeg-default,webp", "--qualities", qualities, "--metrics", "psnr", "--no-timing",
        "--viewer", "", "--out", tmp_path, "--published", published, "--anchor", "JPEG (libjpeg, 4:2:0)",
    )  # fmt: skip
    assert status == 0
    rates = dict(re.findall(r"\| (.+?) +\| +([+-][\d.]+) % \|", said))
    assert abs(float(rates["JPEG, default tables"])) < 3
    assert abs((1 + float(rates["WebP"]) / 100) / (1 + float(rates["WebP, published"]) / 100) - 1) < 0.06
