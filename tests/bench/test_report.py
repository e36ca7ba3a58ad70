# SPDX-License-Identifier: MIT
"""The HTML report: that it is whole and safe as text, and that it works in a browser (headless Chromium, where there is one)."""

import base64
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("plotly", reason="plotly, whose script the report holds, is not installed")
pytest.importorskip("scipy")

from fewbits.bench.report import (  # noqa: E402
    CodecInfo,
    MetricInfo,
    ReportData,
    Version,
    ViewerLevel,
    ViewerPicture,
    embedded_json,
    write_report,
)
from fewbits.bench.summary import Comparison, CurveData, SmallestFile, Speed, Wins  # noqa: E402

EVIL = "</script><script>document.title='broken'</script><!--<script>\"'&<b>"
EVIL_LABEL = "<img src=x onerror=\"document.title='broken'\">"
METRICS = (MetricInfo("psnr", "PSNR (RGB)", "dB", True), MetricInfo("ssimulacra2", "SSIMULACRA2", "", True))
CODECS = (
    CodecInfo("few", "fewbits", "#d1495b", False),
    CodecInfo("jpeg", "JPEG", "#2e86ab", False),
    CodecInfo("same", EVIL_LABEL, "#444444", False),
    CodecInfo("paper", "Paper", "#000000", True),
)
MEASURED = ("few", "jpeg", "same")
N_PICTURES, SETTINGS = 30, (10.0, 50.0, 90.0)


def _uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _rows() -> tuple[dict[str, object], ...]:
    rows: list[dict[str, object]] = []
    for picture in range(N_PICTURES):
        for at, codec in enumerate(MEASURED):
            for setting in SETTINGS:
                bpp = 0.01 * setting * (1 + at / 3) * (1 + picture / 50)
                rows.append(
                    {
                        "image": EVIL if picture == 0 else f"picture-{picture}.png",
                        "codec": codec,
                        "setting": setting,
                        "bytes": np.int64(round(bpp * 49152)),
                        "bpp": bpp,
                        "psnr": np.float32(30 + setting / 10 - picture / 20),
                        "ssimulacra2": 50 + setting / 3 - picture,
                        "encode_s": 0.1,
                        "decode_s": float("nan"),
                        "peak_mb": 100.0,
                        "error": "",
                    }
                )
    failed = {**rows[5], "bytes": None, "bpp": None, "psnr": None, "ssimulacra2": None, "error": "the encoder said <b>no</b>"}
    return (*rows, failed)


def _viewer(picture: Callable[..., np.ndarray]) -> tuple[ViewerPicture, ...]:
    pictures = []
    for seed, (height, width) in enumerate([(120, 200), (160, 90)]):
        original = picture(height, width, seed)
        levels = []
        for bpp, step in ((0.25, 64), (0.5, 32)):
            made = {"few": original // (step // 4) * (step // 4), "jpeg": original // step * step, "same": original}
            levels.append(
                ViewerLevel(
                    bpp,
                    int(bpp * height * width / 8),
                    tuple(Version(codec, bpp * 100, 12345, bpp, {"psnr": 30.0 + step}, _uri(made[codec])) for codec in MEASURED),
                )
            )
        pictures.append(ViewerPicture(f"made-{seed}.png", width, height, _uri(original), tuple(levels)))
    return tuple(pictures)


@pytest.fixture(scope="module")
def data(picture: Callable[..., np.ndarray]) -> ReportData:
    curves = [
        CurveData(codec.name, metric.name, tuple((s, s / 100 + at / 10, 20 + s / 5 - at) for s in SETTINGS))
        for at, codec in enumerate(CODECS)
        for metric in METRICS
        if not (codec.published and metric.name == "ssimulacra2")
    ]
    pairs = [(m.name, a, t) for m in METRICS for a in MEASURED for t in (*MEASURED, "paper") if a != t]
    return ReportData(
        title=f"Test {EVIL}",
        date="2026-11-21",
        metrics=METRICS,
        codecs=CODECS,
        curves=tuple(curves),
        anchor="jpeg",
        record={"Command": f"fewbits bench '{EVIL}'", "Machine": "made up"},
        notes=(f"{EVIL} was left out",),
        bjontegaard=tuple(
            Comparison(m, a, t, None, None, None, None, "they do not overlap")
            if t == "paper"
            else Comparison(m, a, t, -12.34 if t == "few" else 8.0, 0.5, 28.0, 41.0, "")
            for m, a, t in pairs
        ),
        smallest=tuple(SmallestFile("psnr", q, c, 0.1 * q / 30, N_PICTURES, "") for q in (30.0, 35.0) for c in MEASURED),
        wins=tuple(Wins(m, a, t, 20, 8, 2, -11.0) for m, a, t in pairs if t != "paper"),
        speed=tuple(Speed(c, 1.5, 20.0, 0.1, float("inf"), None) for c in MEASURED),
        speed_reference="jpeg",
        histogram_metrics=("psnr", "ssimulacra2"),
        rows=_rows(),
        viewer=_viewer(picture),
    )


@pytest.fixture(scope="module")
def report(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, data)
    return path


def _own_part(text: str) -> str:
    """The page without plotly's script, which mentions map servers that nothing here asks."""
    start, end = text.index("* plotly.js v"), text.index("// SPDX-License-Identifier: MIT", text.index("* plotly.js v"))
    return text[:start] + text[end:]


# ---- as text


def test_written_whole(report: Path) -> None:
    assert [each.name for each in report.parent.iterdir()] == ["report.html"]
    assert not re.search(r"@@[a-z]+@@", _own_part(report.read_text()))


def test_no_network(report: Path) -> None:
    text = report.read_text()
    assert "default-src 'none'" in text
    own = _own_part(text)
    markup = own[: own.index('<script type="application/json"')] + own[own.index("// SPDX") :]
    markup = markup.replace("http://www.w3.org/2000/svg", "")  # a namespace's name: nobody asks there
    assert not re.search(r"https?:|\bsrc=|@import|\burl\(|\bfetch\(|XMLHttpRequest|\bimport\(|rel=.?stylesheet", markup)


def test_nothing_in_the_data_becomes_markup(report: Path) -> None:
    text = report.read_text()
    assert text.count("<script") == 3 and len(re.findall("</script", text, re.IGNORECASE)) == 3
    assert text.count("<!--") == 1  # the template's own
    assert "<title>Test &lt;/script&gt;" in text


def test_json_parses_back(report: Path, data: ReportData) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', report.read_text(), re.DOTALL)
    assert found and "<" not in found[1]
    read = json.loads(found[1])
    assert read["title"] == data.title and read["record"]["Command"].endswith(f"{EVIL}'")
    assert len(read["rows"]) == len(data.rows) and read["rows"][0]["decode_s"] is None
    assert isinstance(read["rows"][0]["bytes"], int) and read["speed"][0]["decode_ratio"] is None
    assert read["viewer"][1]["levels"][0]["versions"][2]["source"] == read["viewer"][1]["original"]


def test_json_refuses_what_it_cannot_show(data: ReportData) -> None:
    with pytest.raises(TypeError, match="cannot show a set"):
        embedded_json(dataclasses.replace(data, rows=({"image": {1}},)))


def test_undecodable_file_names(data: ReportData, tmp_path: Path) -> None:
    """Linux allows names that are no UTF-8; Python holds them as lone surrogates."""
    write_report(tmp_path / "out.html", dataclasses.replace(data, title="a\udcff", rows=({"image": "b\udcff", "codec": "few"},)))
    assert "b\\udcff" in (tmp_path / "out.html").read_text("utf-8")


# ---- in a browser

DESKTOP, PHONE = (1400, 1000, False), (390, 844, True)


class Page:
    """The report, open in a browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, size: tuple[int, int, bool] = DESKTOP, scheme: str = "light") -> None:
        width, height, mobile = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self("document.documentElement.dataset.old = 'yes'")
        self.driver.get(path.as_uri())
        # get() may return while a page of the same address is still being replaced
        self.until("return document.readyState === 'complete' && !document.documentElement.dataset.old")

    def __call__(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def click(self, selector: str) -> None:
        element = self.find(selector)
        self("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def choose(self, selector: str, value: str) -> None:
        script = "const s = document.querySelector(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
        self(script, selector, value)

    def until(self, script: str) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 5, poll_frequency=0.05).until(lambda _: self(script))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def clip(self) -> float:
        """How much of the stage's right is cut off the left side, CSS pixels."""
        path = self("return document.getElementById('left-layer').style.clipPath")
        found = re.fullmatch(r"inset\(0px ([\d.]+)px 0px 0px\)", path)
        assert found, path
        return float(found[1])


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, chromedriver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("chromium or chromedriver is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.set_page_load_timeout(20)
    yield Page(driver)
    driver.quit()


@pytest.fixture
def page(browser: Page, report: Path) -> Iterator[Page]:
    """The report as a fresh page of desktop size; at its end nothing may have been complained about."""
    browser.open(report)
    yield browser
    assert browser.errors() == []


def test_nothing_is_loaded_and_no_name_runs(page: Page) -> None:
    loaded = page("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []
    assert page("return document.title") == f"Test {EVIL}"
    assert page.find("h1").text == f"Test {EVIL}"
    assert EVIL in page.find("#notes").text and page("return document.querySelectorAll('#notes b, img[onerror]').length") == 0
    assert page("return document.querySelector('#record-list dd').textContent") == f"fewbits bench '{EVIL}'"
    assert page.find("#lead").text.startswith(f"{N_PICTURES} pictures · 3 codecs measured and 1 published")


def test_curves(page: Page) -> None:
    traces = "return document.getElementById('curve-chart').data.map((t) => [t.line.dash, t.visible, t.x.length])"
    assert page(traces) == [["solid", True, 3]] * 3 + [["dash", True, 3]]
    assert len(page.all("#curve-chart .scatterlayer .trace")) == 4
    assert page("return document.getElementById('curve-chart').data[3].name") == "Paper, published"
    hover = page("return document.getElementById('curve-chart').data[0].text[1]")
    assert hover == "<b>fewbits</b><br>setting 50<br>0.500 bpp<br>30.00\u202fdB"
    assert page.all("#curve-chart [data-title*='loud'], #curve-chart [data-title*='hare']") == []  # nothing sends charts away

    page.click("#curve-legend button:nth-child(2)")
    assert [each[1] for each in page(traces)] == [True, False, True, True]
    assert len(page.all("#curve-chart .scatterlayer .trace")) == 3
    assert page.find("#curve-legend button:nth-child(2)").get_attribute("aria-pressed") == "false"

    page.click("#curve-scale button:nth-child(2)")
    assert page("return document.getElementById('curve-chart').layout.xaxis.type") == "log"
    page.click("#curve-metric button:nth-child(2)")
    assert [each[1] for each in page(traces)] == [True, False, True]
    assert page("return document.getElementById('curve-chart').layout.yaxis.title.text") == "SSIMULACRA2"


def test_summary_tables(page: Page) -> None:
    first = page.find("#bjontegaard tbody tr:first-child")
    assert [each.text for each in first.find_elements("css selector", "th, td")][:3] == ["fewbits", "−12.3\u202f%", "+0.50"]
    refused = page.find("#bjontegaard tbody tr:last-child td [data-tip]")
    assert refused.text == "–" and page.find("#bjontegaard tbody tr:last-child th").text == "Paper, published"
    page("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", refused)
    assert page.find("#tip").text == "they do not overlap"
    assert "20 / 2 / 8" in page.find("#wins").text
    assert [each.text for each in page.all("#speed tbody tr:first-child td")] == ["1.50", "0.10\u202f×", "20.0", "–", "–"]
    page.choose("#anchor", "few")
    assert page.find("#bjontegaard tbody th").text == "JPEG"


def test_histograms(page: Page) -> None:
    counts = "return document.getElementById('histogram-chart').data.map((t) => t.y.reduce((a, b) => a + b, 0))"
    assert page(counts) == [N_PICTURES, N_PICTURES]
    page.choose("#histogram-codec-1", "")
    assert page(counts) == [N_PICTURES]
    before = page("return document.getElementById('histogram-chart').data[0].x[0]")
    page.choose("#histogram-setting-0", "90")
    assert page("return document.getElementById('histogram-chart').data[0].x[0]") > before
    page.click("#histogram-metric button:nth-child(2)")
    assert page("return document.getElementById('histogram-chart').layout.xaxis.title.text") == "SSIMULACRA2"
    assert page.find("#histogram-facts tbody td:nth-child(5)").text == "65.5"


def test_files_sort_filter_and_pages(page: Page) -> None:
    column = "return [...document.querySelectorAll('#file-table tbody tr')].map((tr) => tr.children[arguments[0]].textContent)"
    head = "#file-table th[data-key='psnr']"
    assert len(page(column, 0)) == 100 and "1 to 100 of 271" in page.find("#file-pager").text
    page.click(f"{head} button")
    assert page.find(head).get_attribute("aria-sort") == "ascending"
    ascending = page(column, 5)
    assert ascending == sorted(ascending, key=float) and ascending[0] == "29.55"
    page.find(f"{head} button").send_keys("\ue007")  # Enter: by keyboard too
    assert page.find(head).get_attribute("aria-sort") == "descending" and page(column, 5)[0] == "39.00"
    page.click("#file-pager button:nth-child(2)")
    page.click("#file-pager button:nth-child(2)")
    assert len(page(column, 0)) == 71 and page(column, 5)[-1] == "–"  # what is missing is last either way
    assert "the encoder said <b>no</b>" in page.find("#file-table tbody tr:last-child").text
    page.choose("#file-codec", "few")
    page.choose("#file-image", EVIL)
    assert page(column, 0) == [EVIL] * 3 and page(column, 1) == ["fewbits"] * 3


def test_slider_by_mouse_and_keyboard(page: Page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    handle = page.find("#handle")
    page("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", handle)
    middle = page.clip()
    assert handle.get_attribute("role") == "slider" and handle.get_attribute("aria-valuenow") == "50"
    ActionChains(page.driver, duration=0).click_and_hold(handle).move_by_offset(50, 0).release().perform()
    assert page.clip() == pytest.approx(middle - 50, abs=1)
    assert handle.get_attribute("aria-valuenow") == "75"  # the picture is 200 pixels wide
    handle.send_keys("\ue012")  # arrow left
    assert handle.get_attribute("aria-valuenow") == "74" and page.clip() == pytest.approx(middle - 48, abs=1)
    handle.send_keys("\ue011")  # Home
    assert handle.get_attribute("aria-valuenow") == "0" and page.clip() == pytest.approx(middle + 100, abs=1)


def test_viewer_switches(page: Page) -> None:
    sources = "return [document.getElementById('left-image').src, document.getElementById('right-image').src]"
    viewer = page("return data.viewer.map((p) => [p.original, p.levels.map((l) => l.versions.map((v) => v.source))])")
    assert page(sources) == [viewer[0][0], viewer[0][1][1][0]]
    page.choose("#viewer-right", "jpeg")
    assert page(sources) == [viewer[0][0], viewer[0][1][1][1]]
    page.choose("#viewer-left", "few")
    page.click("#viewer-levels button:nth-child(1)")
    assert page(sources) == [viewer[0][1][0][0], viewer[0][1][0][1]]
    assert "12\u2009345" in page("return document.getElementById('viewer-facts').textContent")
    page.click("#viewer-next")
    assert page(sources) == [viewer[1][1][0][0], viewer[1][1][0][1]]
    assert page("return document.getElementById('viewer-picture').selectedOptions[0].textContent") == "made-1.png"
    page.choose("#viewer-picture", "0")
    assert page(sources) == [viewer[0][1][0][0], viewer[0][1][0][1]]
    assert page("return document.images.length") == 2  # the pictures not on show are not decoded


def test_zoom_and_pan(page: Page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    place = "const b = document.getElementById('right-image').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]"
    assert page(place)[2:] == [200, 120]
    page.click("#viewer-zoom button:nth-child(4)")
    assert page(place)[2:] == [800, 480]
    assert page("return getComputedStyle(document.getElementById('right-image')).imageRendering") == "pixelated"
    stage = page.find("#stage")
    page("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", stage)
    before = page(place)
    drag = ActionChains(page.driver, duration=0).move_to_element_with_offset(stage, 300, 0).click_and_hold()
    drag.move_by_offset(0, 40).release().perform()
    assert page(place)[1] == pytest.approx(before[1] + 40, abs=1)

    scroll = (
        "const s = document.getElementById('stage'), b = s.getBoundingClientRect();"
        "return s.dispatchEvent(new WheelEvent('wheel', {deltaY: arguments[0], ctrlKey: arguments[1], cancelable: true,"
        " clientX: b.left + b.width / 2 + 50, clientY: b.top + 60}))"
    )
    pointer = page("const b = arguments[0].getBoundingClientRect(); return b.left + b.width / 2 + 50", stage)
    for width in (1000, 1250, 1562.5):
        assert page(scroll, -100, False) is False  # zoomed in: the wheel is the viewer's
        assert page(place)[2] == pytest.approx(width)
    before = page(place)
    page(scroll, -100, False)
    after = page(place)  # and what is under the pointer stays there, once the picture covers the stage
    assert (pointer - after[0]) / after[2] == pytest.approx((pointer - before[0]) / before[2], abs=0.002)
    page.click("#viewer-zoom button:nth-child(1)")
    assert page(place)[2:] == [200, 120]
    assert page(scroll, -100, False) is True  # not zoomed: it scrolls the page
    assert page(scroll, -100, True) is False and page(place)[2] == pytest.approx(250)


def test_error_map(page: Page) -> None:
    pixels = (
        "const c = document.getElementById('error-canvas'); if (c.hidden) return null;"
        "const k = new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true}); k.drawImage(c, 0, 0);"
        "return [...k.getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 < 3)"
    )
    page.click("#error-toggle")
    few = page.until(pixels)
    assert len(few) == 200 * 120 * 3 and np.std(few) > 2
    assert "mean" in page.find("#error-legend").text
    page.click("#error-gain button:nth-child(3)")
    stronger = page.until(pixels)
    assert np.mean(stronger) > np.mean(few)
    page.click("#error-gain button:nth-child(2)")
    page.choose("#viewer-right", "jpeg")
    jpeg = page.until(pixels)
    assert np.mean(jpeg) > np.mean(few)
    page.choose("#viewer-right", "same")
    assert not any(page.until(pixels))
    assert "mean 0.00, highest 0.0" in page.find("#error-legend").text
    page.click("#error-toggle")
    assert page(pixels) is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser: Page, report: Path, scheme: str) -> None:
    browser.open(report, PHONE, scheme)
    assert browser("return [document.documentElement.scrollWidth <= innerWidth, innerWidth]") == [True, 390]
    browser.click("#viewer-zoom button:nth-child(4)")
    browser.click("#error-toggle")
    browser("document.getElementById('record').open = true")
    assert browser("return document.documentElement.scrollWidth") <= 390
    facts = browser("const f = document.querySelector('#viewer-facts .frame'); return [f.scrollWidth, f.clientWidth]")
    assert facts[0] <= facts[1]  # both sides are seen at once
    boxes = "return ['curve-chart', 'curve-legend'].map((id) => document.getElementById(id).getBoundingClientRect().toJSON())"
    chart, legend = browser(boxes)
    assert legend["top"] >= chart["bottom"]
    small = "return [...document.querySelectorAll('button, select, summary, nav a')].filter((e) => e.checkVisibility())"
    assert browser(small + ".filter((e) => e.getBoundingClientRect().height < 40).map((e) => e.textContent)") == []
    page_colour = browser("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", page_colour)[:3])) < 200) == (scheme == "dark")
    assert browser.errors() == []


def test_touch_moves_the_slider(browser: Page, report: Path) -> None:
    browser.open(report, PHONE)
    browser("document.getElementById('stage').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = browser("return document.getElementById('handle').getBoundingClientRect().toJSON()")
    x, y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2
    before = browser.clip()
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchMove", [{"x": x + 40, "y": y}]), ("touchEnd", [])):
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert browser.clip() == pytest.approx(before - 40, abs=1)
    assert browser.errors() == []


def test_an_almost_empty_report(browser: Page, tmp_path: Path) -> None:
    write_report(tmp_path / "empty.html", ReportData("Nothing", "2026-11-21", METRICS, CODECS, (), "jpeg"))
    browser.open(tmp_path / "empty.html")
    assert "without pictures" in browser.find("#viewer").text and not browser.find("#viewer-body").is_displayed()
    browser.open(tmp_path / "empty.html", PHONE, "dark")
    assert browser("return document.documentElement.scrollWidth") <= 390
    assert browser.errors() == []
