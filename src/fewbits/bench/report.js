// SPDX-License-Identifier: MIT
// Fills the page from the JSON in #data. Every text goes in by textContent, so that no name in the data can become markup.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const metricOf = new Map(data.metrics.map((metric) => [metric.name, metric]));
const codecOf = new Map(data.codecs.map((codec) => [codec.name, codec]));

const DASH = "–";
const MINUS = "−";
const THIN = "\u2009"; // thin space
const NARROW = "\u202f"; // narrow space that does not break

// ---------------------------------------------------------------------------------------------------------------- helpers

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") element.className = value;
    else if (key === "style") element.style.cssText = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const distinct = (values) => [...new Set(values)];
const narrow = () => window.innerWidth <= 700;

function fixed(value, digits) {
  if (!isNumber(value)) return DASH;
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? MINUS + text : text;
}

function signed(value, digits) {
  const text = fixed(value, digits);
  return value > 0 && Number(text) !== 0 ? "+" + text : text;
}

const percent = (value) => (isNumber(value) ? `${signed(value, 1)}${NARROW}%` : DASH);
const grouped = (value) => (isNumber(value) ? String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN) : DASH);

// A speed or a ratio: about three figures, whatever its size.
function threeFigures(value) {
  if (!isNumber(value)) return DASH;
  const size = Math.abs(value);
  if (size >= 1000) return grouped(value);
  return fixed(value, size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : size >= 0.01 ? 3 : 4);
}

const settingText = (setting) => (isNumber(setting) ? String(Number(setting.toPrecision(6))).replace("-", MINUS) : DASH);

const digitsCache = new Map();
function digitsOf(metric) {
  if (!digitsCache.has(metric.name)) digitsCache.set(metric.name, findDigits(metric));
  return digitsCache.get(metric.name);
}

function findDigits(metric) {
  if (metric.unit === "dB") return 2;
  if (/ssimulacra/i.test(`${metric.name} ${metric.label}`)) return 1;
  const values = data.curves.filter((curve) => curve.metric === metric.name).flatMap((curve) => curve.points.map((point) => point[2]));
  return values.every((value) => !isNumber(value) || Math.abs(value) <= 1.5) ? 4 : 2; // an index up to 1, or something else
}

const metricText = (metric, value) => fixed(value, digitsOf(metric));
const withUnit = (metric, text) => (metric.unit && text !== DASH ? `${text}${NARROW}${metric.unit}` : text);
const metricTitle = (metric) => (metric.unit ? `${metric.label}, ${metric.unit}` : metric.label);
const codecLabel = (name) => codecOf.get(name)?.label ?? name;
const legendLabel = (codec) => (codec.published ? `${codec.label}, published` : codec.label);

// ---------------------------------------------------------------------------------------------------------------- colours

const styleValue = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const darkMode = window.matchMedia("(prefers-color-scheme: dark)");

const channelsOf = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

function luminance(channels) {
  const [r, g, b] = channels.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// The codec's colour, moved towards the text's colour until it stands out (3:1) from the surface, light or dark.
function codecColour(name) {
  const colour = codecOf.get(name)?.colour ?? "";
  const wanted = channelsOf(/^#[0-9a-f]{6}$/i.test(colour) ? colour : "#808080");
  const text = channelsOf(styleValue("--text"));
  const surface = luminance(channelsOf(styleValue("--surface")));
  for (let share = 0; share <= 1; share += 0.1) {
    const mixed = wanted.map((c, i) => Math.round(c + (text[i] - c) * share));
    const [low, high] = [luminance(mixed), surface].sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) >= 3 || share > 0.95) return `rgb(${mixed.join(",")})`;
  }
  return styleValue("--text");
}

const dot = (name) => make("span", { class: "dot", style: `background:${codecColour(name)}`, "aria-hidden": "true" });

// --------------------------------------------------------------------------------------------------------------- controls

function control(name, ...children) {
  return make("div", { class: "control" }, make("span", { class: "name" }, name), ...children);
}

// A row of buttons of which one is pressed. options: [value, label, optional tooltip].
function segments(name, options, value, onChange, id = null) {
  const row = make("div", { class: "segments", role: "group", "aria-label": name, id });
  const press = (chosen) => {
    for (const [index, button] of [...row.children].entries()) button.setAttribute("aria-pressed", String(options[index][0] === chosen));
  };
  for (const [option, label, title] of options) {
    row.append(make("button", { type: "button", title, onclick: () => { press(option); onChange(option); } }, label));
  }
  press(value);
  const whole = control(name, row);
  whole.press = press;
  return whole;
}

function fillSelect(select, options, value) {
  select.replaceChildren(...options.map(([option, label]) => make("option", { value: option, selected: option === value }, label)));
  select.value = value;
}

function selector(name, options, value, onChange, id = null) {
  const select = make("select", { "aria-label": name, id, onchange: () => onChange(select.value) });
  fillSelect(select, options, value);
  const whole = control(name, select);
  whole.select = select;
  return whole;
}

function frame(table, tall = false) {
  // Focusable, so that the keyboard can scroll it.
  return make("div", { class: tall ? "frame tall" : "frame", tabindex: "0", role: "region", "aria-label": table.dataset.label ?? "Table" }, table);
}

function tableOf(label, headRows, bodyRows) {
  const table = make("table", {}, make("thead", {}, ...headRows), make("tbody", {}, ...bodyRows));
  table.dataset.label = label;
  return table;
}

function cell(text, properties = {}, tip = "") {
  const classes = [properties.class, text === DASH ? "absent" : ""].filter(Boolean).join(" ");
  const content = tip ? make("span", { "data-tip": tip, tabindex: "0" }, text) : text;
  return make("td", { ...properties, class: classes || null }, content);
}

const codecHead = (name) => make("th", { scope: "row" }, dot(name), legendLabel(codecOf.get(name) ?? { label: name }));
const columnHead = (text, properties = {}) => make("th", { scope: "col", ...properties }, text);
const nothing = (text) => make("p", { class: "empty" }, text);

// One tooltip for all of [data-tip]; unlike title=, it works by touch and by keyboard, and no scrolling frame cuts it.
let tipTarget = null;
function showTip(target) {
  const tip = byId("tip");
  tipTarget = target;
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  const at = target.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left + at.width / 2 - tip.offsetWidth / 2), document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = at.top - tip.offsetHeight - 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${above >= 4 ? above : at.bottom + 6}px`;
}

function watchTips() {
  const tipped = (event) => (event.target instanceof Element ? event.target.closest("[data-tip]") : null);
  const hide = () => { byId("tip").hidden = true; };
  for (const kind of ["pointerover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => { const target = tipped(event); if (target) showTip(target); else hide(); });
  }
  document.addEventListener("focusout", hide);
  // It follows its value: tabbing to a value out of sight scrolls, and must not hide what was just shown.
  document.addEventListener("scroll", () => { if (!byId("tip").hidden) showTip(tipTarget); }, true);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}

// ----------------------------------------------------------------------------------------------------------------- header

function fillHeader() {
  const pictures = distinct(data.rows.map((row) => row.image)).length;
  const published = data.codecs.filter((codec) => codec.published).length;
  const count = (n, one, many) => `${grouped(n)} ${n === 1 ? one : many}`;
  byId("lead").textContent = [
    count(pictures, "picture", "pictures"),
    count(data.codecs.length - published, "codec measured", "codecs measured") + (published ? ` and ${grouped(published)} published` : ""),
    data.metrics.map((metric) => metric.label).join(", "),
    data.date,
  ].filter(Boolean).join(" · ");
  byId("notes").append(...data.notes.map((note) => make("li", {}, note)));
  byId("notes").hidden = data.notes.length === 0;
  const entries = Object.entries(data.record);
  byId("record-list").append(...entries.flatMap(([label, text]) => [make("dt", {}, label), make("dd", {}, text)]));
  byId("record").hidden = entries.length === 0;
}

// ----------------------------------------------------------------------------------------------------------------- charts

// plotly reads a little HTML in its texts; a name must not be read as such.
const plotText = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function chartAxis(title) {
  return {
    title: { text: plotText(title), standoff: 12 },
    gridcolor: styleValue("--line"),
    linecolor: styleValue("--line"),
    zeroline: false,
    automargin: true,
    fixedrange: narrow(), // a finger on the chart must scroll the page
  };
}

function chartLayout(xTitle, yTitle) {
  const text = styleValue("--text");
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow() ? 12 : 13, color: text },
    margin: { l: 56, r: 18, t: 34, b: 50 },
    showlegend: false,
    hovermode: "closest",
    hoverlabel: { bgcolor: styleValue("--surface"), font: { color: text, size: 13 }, align: "left" },
    dragmode: narrow() ? false : "zoom",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: styleValue("--muted"), activecolor: text },
    xaxis: chartAxis(xTitle),
    yaxis: chartAxis(yTitle),
  };
}

const chartConfig = () => ({
  displaylogo: false,
  responsive: true,
  displayModeBar: narrow() ? false : "hover",
  // Named one by one: plotly's own choice has a button that would send the chart to its server.
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
  plotlyServerURL: "",
});

// Published curves may share one colour: the dashes and the marks tell them apart. [plotly's dash, SVG's, plotly's mark, its path]
const PUBLISHED_LINES = [
  ["dash", "6 4", "circle", "M17 6a3 3 0 1 1-6 0a3 3 0 1 1 6 0"],
  ["dot", "2 3", "square", "M11 3h6v6h-6z"],
  ["dashdot", "7 3 2 3", "diamond", "M14 2l4 4l-4 4l-4-4z"],
  ["longdash", "10 4", "triangle-up", "M14 2l4 7h-8z"],
];
const MEASURED_LINE = ["solid", "none", "circle", "M18 6a4 4 0 1 1-8 0a4 4 0 1 1 8 0"];

function lineStyle(name) {
  const published = data.codecs.filter((codec) => codec.published).map((codec) => codec.name);
  return published.includes(name) ? PUBLISHED_LINES[published.indexOf(name) % PUBLISHED_LINES.length] : MEASURED_LINE;
}

function swatch(codec) {
  const [, dashes, , mark] = lineStyle(codec.name);
  const colour = codecColour(codec.name);
  const part = (tag, properties) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
    return element;
  };
  const whole = part("svg", { class: "swatch", viewBox: "0 0 28 12", width: 28, height: 12, "aria-hidden": "true" });
  whole.append(part("path", { d: "M0 6h28", stroke: colour, "stroke-width": codec.published ? 1.5 : 2.5, "stroke-dasharray": dashes }), part("path", { d: mark, fill: colour }));
  return whole;
}

const curveState = { metric: data.metrics[0]?.name, log: false, hidden: new Set() };

function fillCurves() {
  const shown = data.metrics.filter((metric) => data.curves.some((curve) => curve.metric === metric.name));
  if (!shown.length) {
    byId("curves").replaceChildren(byId("curves-title"), nothing("There are no curves to show."));
    return;
  }
  curveState.metric = shown[0].name;
  byId("curve-controls").append(
    segments("Metric", shown.map((metric) => [metric.name, metric.label]), curveState.metric, (name) => { curveState.metric = name; drawCurves(); }, "curve-metric"),
    segments("Bits per pixel", [[false, "Linear"], [true, "Logarithmic"]], curveState.log, (log) => { curveState.log = log; drawCurves(); }, "curve-scale"),
  );
  drawCurves();
}

function curveTrace(curve, metric) {
  const codec = codecOf.get(curve.codec) ?? { name: curve.codec, label: curve.codec };
  const points = curve.points.filter(([, bpp, value]) => isNumber(bpp) && isNumber(value)).sort((a, b) => a[1] - b[1]);
  const colour = codecColour(codec.name);
  const [dash, , symbol] = lineStyle(codec.name);
  const setting = (value) => (isNumber(value) ? `setting ${settingText(value)}<br>` : "");
  return {
    name: plotText(legendLabel(codec)),
    mode: "lines+markers",
    x: points.map((point) => point[1]),
    y: points.map((point) => point[2]),
    text: points.map(([at, bpp, value]) => `<b>${plotText(legendLabel(codec))}</b><br>${setting(at)}${fixed(bpp, 3)} bpp<br>${plotText(withUnit(metric, metricText(metric, value)))}`),
    hovertemplate: "%{text}<extra></extra>",
    hoverlabel: { bordercolor: colour },
    line: { color: colour, width: codec.published ? 1.5 : 2.5, dash },
    marker: { color: colour, size: codec.published ? 6 : 7, symbol },
    visible: !curveState.hidden.has(curve.codec),
  };
}

// 1, 2 and 5 of each decade: plotly's own choice for a short logarithmic axis is poor.
function logTicks() {
  const values = [];
  for (let power = -4; power <= 2; power += 1) for (const digit of [1, 2, 5]) values.push(Number(`${digit}e${power}`));
  return { type: "log", tickvals: values, ticktext: values.map(String) };
}

function drawCurves() {
  const metric = metricOf.get(curveState.metric);
  const curves = data.curves.filter((curve) => curve.metric === metric.name);
  const layout = chartLayout("bits per pixel", metricTitle(metric));
  if (curveState.log) Object.assign(layout.xaxis, logTicks());
  else layout.xaxis.rangemode = "tozero";
  Plotly.react("curve-chart", curves.map((curve) => curveTrace(curve, metric)), layout, chartConfig());
  byId("curve-about").textContent = `Means over the pictures at each setting. ${metric.label}: ${metric.higher_is_better ? "higher" : "lower"} is better.`;
  drawLegend(curves);
}

function drawLegend(curves) {
  const names = distinct(curves.map((curve) => curve.codec));
  const focused = [...byId("curve-legend").children].indexOf(document.activeElement);
  byId("curve-legend").replaceChildren(...names.map((name) => {
    const codec = codecOf.get(name) ?? { name, label: name };
    return make("button", {
      type: "button", "aria-pressed": String(!curveState.hidden.has(name)), title: "Click: show or hide. Double click: only this one, or all.",
      onclick: () => toggleCurve(name), ondblclick: () => isolateCurve(name, names),
    }, swatch(codec), legendLabel(codec));
  }));
  byId("curve-legend").children[focused]?.focus(); // the pressed button was replaced
}

function toggleCurve(name) {
  if (!curveState.hidden.delete(name)) curveState.hidden.add(name);
  drawCurves();
}

function isolateCurve(name, names) {
  const alone = names.every((other) => other === name || curveState.hidden.has(other));
  curveState.hidden = new Set(alone ? [] : names.filter((other) => other !== name));
  drawCurves();
}

// ----------------------------------------------------------------------------------------------------------------- tables

const tableState = { anchor: data.anchor };

function inCodecOrder(names) {
  const order = data.codecs.map((codec) => codec.name);
  return distinct(names).sort((a, b) => order.indexOf(a) - order.indexOf(b));
}

function fillTables() {
  const anchors = inCodecOrder([...data.bjontegaard, ...data.wins].map((each) => each.anchor));
  if (!anchors.includes(tableState.anchor)) tableState.anchor = anchors[0];
  if (anchors.length) {
    byId("anchor-controls").append(selector("Compare against (anchor)", anchors.map((name) => [name, codecLabel(name)]), tableState.anchor,
      (name) => { tableState.anchor = name; drawAnchored(); }, "anchor"));
  }
  drawTables();
}

function drawTables() {
  drawAnchored();
  byId("smallest").replaceChildren(smallestTable());
  byId("speed").replaceChildren(speedTable());
  byId("speed-about").textContent = "Megapixels per second; “×” is the speed as a multiple of "
    + (data.speed_reference ? `${codecLabel(data.speed_reference)}’s.` : "the reference’s.") + " Memory is the peak of the whole process.";
}

function drawAnchored() {
  byId("bjontegaard").replaceChildren(pairTable("Bjontegaard differences", data.bjontegaard, ["rate", "quality"], bjontegaardCells));
  byId("wins").replaceChildren(pairTable("Wins and losses", data.wins, ["won / undecided / lost", "median"], winsCells));
}

// A table of codecs by metrics, two columns for each metric, against the chosen anchor.
function pairTable(label, pairs, columns, cellsOf) {
  const found = pairs.filter((pair) => pair.anchor === tableState.anchor && pair.test !== tableState.anchor);
  if (!found.length) return nothing("There is nothing to compare.");
  const shown = data.metrics.filter((metric) => found.some((pair) => pair.metric === metric.name));
  const head = [
    make("tr", {}, columnHead("Codec", { rowspan: "2", class: "corner" }), ...shown.map((metric) => columnHead(metricTitle(metric), { colspan: "2", class: "first", scope: "colgroup" }))),
    make("tr", {}, ...shown.flatMap(() => [columnHead(columns[0], { class: "first" }), columnHead(columns[1])])),
  ];
  const rows = inCodecOrder(found.map((pair) => pair.test)).map((test) => make("tr", {}, codecHead(test), ...shown.flatMap((metric) => {
    const pair = found.find((each) => each.test === test && each.metric === metric.name);
    return pair ? cellsOf(pair, metric) : [cell(DASH, { class: "first" }), cell(DASH)];
  })));
  return frame(tableOf(label, head, rows));
}

const tone = (rate) => (!isNumber(rate) || fixed(rate, 1) === "0.0" ? "" : rate < 0 ? "better" : "worse");

function bjontegaardCells(pair, metric) {
  const range = isNumber(pair.low) && isNumber(pair.high)
    ? `compared over ${metricText(metric, pair.low)} to ${withUnit(metric, metricText(metric, pair.high))}` : "";
  const tip = [pair.reason, range].filter(Boolean).join("; ");
  const rate = percent(pair.rate_percent);
  return [
    cell(rate, { class: `first ${tone(pair.rate_percent)}` }, isNumber(pair.rate_percent) ? range : tip),
    cell(signed(pair.quality_gain, digitsOf(metric)), {}, isNumber(pair.quality_gain) ? "" : tip),
  ];
}

function winsCells(pair) {
  const total = pair.n_wins + pair.n_undecided + pair.n_losses;
  const part = (kind, n) => make("span", { class: kind, style: `flex:${n} 0 0` });
  const bar = total ? make("span", { class: "balance", "aria-hidden": "true" }, part("won", pair.n_wins), part("", pair.n_undecided), part("lost", pair.n_losses)) : null;
  return [
    make("td", { class: "first" }, bar, `${pair.n_wins} / ${pair.n_undecided} / ${pair.n_losses}`),
    cell(percent(pair.median_percent), { class: tone(pair.median_percent) }),
  ];
}

function smallestTable() {
  if (!data.smallest.length) return nothing("No qualities were asked for.");
  const columns = data.metrics.flatMap((metric) => distinct(data.smallest.filter((each) => each.metric === metric.name).map((each) => each.quality))
    .sort((a, b) => a - b).map((quality) => smallestColumn(metric, quality)));
  const groups = data.metrics.map((metric) => [metric, columns.filter((column) => column.metric === metric)]).filter(([, group]) => group.length);
  const first = (column) => (groups.some(([, group]) => group[0] === column) ? "first" : null);
  const head = [
    make("tr", {}, columnHead("Codec", { rowspan: "2", class: "corner" }), ...groups.map(([metric, group]) => columnHead(metricTitle(metric), { colspan: String(group.length), class: "first", scope: "colgroup" }))),
    make("tr", {}, ...columns.map((column) => columnHead(`${settingText(column.quality)} (n = ${column.most})`, { class: first(column) }))),
  ];
  const rows = inCodecOrder(data.smallest.map((each) => each.codec)).map((codec) => make("tr", {}, codecHead(codec),
    ...columns.map((column) => smallestCell(column, codec, first(column)))));
  return frame(tableOf("Smallest file at a given quality", head, rows));
}

// The means are over the pictures on which every codec that has a number reaches the quality; their number stands in the head.
function smallestColumn(metric, quality) {
  const entries = data.smallest.filter((each) => each.metric === metric.name && each.quality === quality);
  const reached = entries.filter((each) => isNumber(each.mean_bpp));
  const most = Math.max(0, ...reached.map((each) => each.n_pictures));
  const best = Math.min(...reached.filter((each) => each.n_pictures === most).map((each) => each.mean_bpp));
  return { metric, quality, entries, most, best };
}

function smallestCell(column, codec, className) {
  const entry = column.entries.find((each) => each.codec === codec);
  if (!entry) return cell(DASH, { class: className });
  const fewer = isNumber(entry.mean_bpp) && entry.n_pictures < column.most;
  const tip = [entry.reason, fewer || entry.reason ? `over ${entry.n_pictures} ${entry.n_pictures === 1 ? "picture" : "pictures"}` : ""].filter(Boolean).join("; ");
  const best = !fewer && entry.mean_bpp === column.best;
  return cell(fixed(entry.mean_bpp, 3), { class: [className, best ? "best" : ""].filter(Boolean).join(" ") }, tip);
}

function speedTable() {
  if (!data.speed.length) return nothing("Speed was not measured.");
  const times = (value) => (isNumber(value) ? `${threeFigures(value)}${NARROW}×` : DASH);
  const head = [
    make("tr", {}, columnHead("Codec", { rowspan: "2", class: "corner" }), columnHead("Encode", { colspan: "2", class: "first", scope: "colgroup" }),
      columnHead("Decode", { colspan: "2", class: "first", scope: "colgroup" }), columnHead("Memory", { class: "first", scope: "colgroup", colspan: "1" })),
    make("tr", {}, columnHead("MP/s", { class: "first" }), columnHead("×"), columnHead("MP/s", { class: "first" }), columnHead("×"), columnHead("MB", { class: "first" })),
  ];
  const rows = data.speed.map((each) => make("tr", {}, codecHead(each.codec),
    cell(threeFigures(each.encode_mps), { class: "first" }), cell(times(each.encode_ratio)),
    cell(threeFigures(each.decode_mps), { class: "first" }), cell(times(each.decode_ratio)), cell(grouped(each.peak_mb), { class: "first" })));
  return frame(tableOf("Speed and memory", head, rows));
}

// ------------------------------------------------------------------------------------------------------------- histograms

const histogramState = { metric: null, sides: [{ codec: "", setting: "" }, { codec: "", setting: "" }], settingSelects: [] };

function fillHistograms() {
  const shown = data.histogram_metrics.filter((name) => metricOf.has(name) && data.rows.some((row) => isNumber(row[name])));
  if (!shown.length) {
    byId("histograms").replaceChildren(byId("histograms-title"), nothing("There are no distributions to show."));
    return;
  }
  const names = inCodecOrder(data.rows.map((row) => row.codec));
  histogramState.metric = shown[0];
  const [first, second] = histogramState.sides;
  first.codec = names[0];
  first.setting = middleSetting(names[0]);
  second.codec = names.length > 1 ? (names.find((name) => name === data.anchor && name !== names[0]) ?? names[1]) : "";
  second.setting = second.codec ? nearestSetting(second.codec, meanBpp(first)) : "";
  byId("histogram-controls").append(
    segments("Metric", shown.map((name) => [name, metricOf.get(name).label]), histogramState.metric, (name) => { histogramState.metric = name; drawHistogram(); }, "histogram-metric"),
    ...sideControls(0, "Codec", names),
    ...sideControls(1, "Compared with", names),
  );
  drawHistogram();
}

const rowsOf = (codec) => data.rows.filter((row) => row.codec === codec && isNumber(row.bpp));
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const meanBpp = (side) => mean(rowsOf(side.codec).filter((row) => String(row.setting) === side.setting).map((row) => row.bpp));

// The codec's settings as [key, mean bpp], fewest bits first.
function settingsOf(codec) {
  const groups = Map.groupBy ? Map.groupBy(rowsOf(codec), (row) => String(row.setting)) : groupRows(rowsOf(codec));
  return [...groups].map(([key, rows]) => [key, mean(rows.map((row) => row.bpp))]).sort((a, b) => a[1] - b[1]);
}

function groupRows(rows) {
  const groups = new Map();
  for (const row of rows) groups.set(String(row.setting), [...(groups.get(String(row.setting)) ?? []), row]);
  return groups;
}

function middleSetting(codec) {
  const settings = settingsOf(codec);
  return settings.length ? settings[settings.length >> 1][0] : "";
}

function nearestSetting(codec, bpp) {
  const nearest = settingsOf(codec).sort((a, b) => Math.abs(a[1] - bpp) - Math.abs(b[1] - bpp))[0];
  return nearest ? nearest[0] : "";
}

const settingOptions = (codec) => settingsOf(codec).map(([key, bpp]) => [key, `${key === "null" ? DASH : settingText(Number(key))} (${fixed(bpp, 3)} bpp)`]);

function sideControls(index, name, names) {
  const side = histogramState.sides[index];
  const settings = selector("Setting (mean size)", settingOptions(side.codec), side.setting, (key) => { side.setting = key; drawHistogram(); }, `histogram-setting-${index}`);
  const options = [...(index ? [["", "Nothing"]] : []), ...names.map((codec) => [codec, codecLabel(codec)])];
  const codecs = selector(name, options, side.codec, (codec) => {
    // Another codec starts where it compares best: near the other side's size.
    const other = histogramState.sides[1 - index];
    side.setting = other.codec ? nearestSetting(codec, meanBpp(other)) : middleSetting(codec);
    side.codec = codec;
    fillSelect(settings.select, settingOptions(codec), side.setting);
    settings.select.disabled = !codec;
    drawHistogram();
  }, `histogram-codec-${index}`);
  settings.select.disabled = !side.codec;
  return [codecs, settings];
}

const sideRows = (side) => data.rows.filter((row) => row.codec === side.codec && String(row.setting) === side.setting && isNumber(row[histogramState.metric]));

// Round bin edges that hold all values, some fifteen to twenty bins: both histograms share them.
function binEdges(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const rough = Math.max(high - low, 1e-6 * Math.abs(high), 1e-9) / 20;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = power * [1, 2, 2.5, 5, 10].find((step) => step * power >= rough * 0.999);
  const start = Math.floor(low / size) * size;
  return { start, size, count: Math.floor((high - start) / size) + 1 };
}

function histogramTrace(side, bins, metric) {
  const counts = new Array(bins.count).fill(0);
  for (const row of sideRows(side)) counts[Math.min(bins.count - 1, Math.floor((row[metric.name] - bins.start) / bins.size))] += 1;
  const edge = (index) => fixed(bins.start + index * bins.size, digitsOf(metric) + 1);
  const codec = codecOf.get(side.codec);
  return {
    type: "bar",
    name: plotText(codecLabel(side.codec)),
    x: counts.map((_, index) => bins.start + (index + 0.5) * bins.size),
    y: counts,
    width: bins.size,
    text: counts.map((count, index) => `<b>${plotText(codec.label)}</b><br>${edge(index)} to ${edge(index + 1)}<br>${count} ${count === 1 ? "picture" : "pictures"}`),
    textposition: "none",
    hovertemplate: "%{text}<extra></extra>",
    marker: { color: codecColour(side.codec), opacity: 0.55, line: { color: codecColour(side.codec), width: 1 } },
  };
}

function drawHistogram() {
  const metric = metricOf.get(histogramState.metric);
  const sides = histogramState.sides.filter((side) => side.codec && sideRows(side).length);
  const layout = { ...chartLayout(metricTitle(metric), "pictures"), barmode: "overlay", bargap: 0 };
  Object.assign(layout.yaxis, { rangemode: "tozero", tickformat: "d" });
  if (sides.length) {
    const bins = binEdges(sides.flatMap((side) => sideRows(side).map((row) => row[metric.name])));
    Plotly.react("histogram-chart", sides.map((side) => histogramTrace(side, bins, metric)), layout, chartConfig());
  } else {
    Plotly.react("histogram-chart", [], layout, chartConfig());
  }
  byId("histogram-facts").replaceChildren(histogramFacts(sides, metric));
}

function median(sorted) {
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function histogramFacts(sides, metric) {
  if (!sides.length) return nothing("No picture has a value here.");
  const head = ["Codec", "Setting", "Pictures", "Mean", "Median", "Lowest", "Highest"].map((text, i) => columnHead(text, { class: i ? null : "corner" }));
  const rows = sides.map((side) => {
    const sorted = sideRows(side).sort((a, b) => a[metric.name] - b[metric.name]);
    const values = sorted.map((row) => row[metric.name]);
    const show = (value) => cell(metricText(metric, value));
    return make("tr", {}, codecHead(side.codec), cell(settingText(sorted[0].setting)), cell(grouped(values.length)), show(mean(values)), show(median(values)),
      cell(metricText(metric, values[0]), {}, sorted[0].image), cell(metricText(metric, values.at(-1)), {}, sorted.at(-1).image));
  });
  return frame(tableOf("Facts about the distributions", [make("tr", {}, ...head)], rows));
}

// ------------------------------------------------------------------------------------------------------------- every file

const PAGE = 100; // rows drawn at a time
const fileState = { key: "", ascending: true, image: "", codec: "", page: 0 };
const byName = new Intl.Collator("en", { numeric: true });

// Columns as {key, label, text(row), isText}.
function fileColumns() {
  const number = (key, label, show) => ({ key, label, show: (row) => show(row[key]) });
  const some = (key) => data.rows.some((row) => isNumber(row[key]));
  const columns = [
    { key: "image", label: "Picture", isText: true, show: (row) => row.image },
    { key: "codec", label: "Codec", isText: true, show: (row) => codecLabel(row.codec) },
    number("setting", "Setting", settingText),
    number("bytes", "Bytes", grouped),
    number("bpp", "bpp", (value) => fixed(value, 3)),
    ...data.metrics.map((metric) => number(metric.name, metricTitle(metric), (value) => metricText(metric, value))),
    number("encode_s", "Encode, s", (value) => fixed(value, 3)),
    number("decode_s", "Decode, s", (value) => fixed(value, 3)),
    number("peak_mb", "Memory, MB", grouped),
  ];
  const always = new Set(["image", "codec", "setting", "bytes", "bpp"]);
  const used = columns.filter((column) => always.has(column.key) || some(column.key));
  if (data.rows.some((row) => row.error)) used.push({ key: "error", label: "Error", isText: true, show: (row) => row.error || "" });
  return used;
}

function fillFiles() {
  if (!data.rows.length) {
    byId("files").replaceChildren(byId("files-title"), nothing("No file was measured."));
    return;
  }
  const change = (key) => (value) => { fileState[key] = value; fileState.page = 0; drawFiles(); };
  const images = distinct(data.rows.map((row) => row.image)).sort(byName.compare);
  const names = inCodecOrder(data.rows.map((row) => row.codec));
  byId("file-controls").append(
    selector("Picture", [["", "All pictures"], ...images.map((image) => [image, image])], "", change("image"), "file-image"),
    selector("Codec", [["", "All codecs"], ...names.map((name) => [name, codecLabel(name)])], "", change("codec"), "file-codec"),
  );
  const heads = fileColumns().map((column, index) => columnHead(
    make("button", { type: "button", onclick: () => sortFiles(column.key) }, column.label),
    { "aria-sort": "none", "data-key": column.key, class: [column.isText ? "text" : "", index ? "" : "corner"].filter(Boolean).join(" ") || null },
  ));
  byId("file-table").append(frame(tableOf("Every file", [make("tr", {}, ...heads)], []), true));
  drawFiles();
}

function sortFiles(key) {
  fileState.ascending = fileState.key === key ? !fileState.ascending : true;
  fileState.key = key;
  fileState.page = 0;
  drawFiles();
}

const isMissing = (value) => value === null || value === undefined || value === "";

// What is missing comes last, whichever way the rest is sorted.
function compareRows(a, b) {
  const [x, y] = [a[fileState.key], b[fileState.key]];
  if (isMissing(x) || isMissing(y)) return Number(isMissing(x)) - Number(isMissing(y));
  const order = isNumber(x) && isNumber(y) ? x - y : byName.compare(String(x), String(y));
  return fileState.ascending ? order : -order;
}

function drawFiles() {
  const rows = data.rows.filter((row) => (!fileState.image || row.image === fileState.image) && (!fileState.codec || row.codec === fileState.codec));
  if (fileState.key) rows.sort(compareRows);
  const columns = fileColumns();
  const start = fileState.page * PAGE;
  const shown = rows.slice(start, start + PAGE);
  byId("file-table").querySelector("tbody").replaceChildren(...shown.map((row) => fileRow(row, columns)));
  for (const head of byId("file-table").querySelectorAll("th[data-key]")) {
    head.setAttribute("aria-sort", head.dataset.key !== fileState.key ? "none" : fileState.ascending ? "ascending" : "descending");
  }
  drawPager(rows.length, start, shown.length);
}

function fileRow(row, columns) {
  return make("tr", {}, ...columns.map((column) => {
    if (column.key === "image") return make("th", { scope: "row" }, column.show(row));
    if (column.key === "codec") return make("td", { class: "text" }, dot(row.codec), column.show(row));
    return cell(column.show(row), { class: column.key === "error" ? "error" : column.isText ? "text" : null });
  }));
}

function drawPager(total, start, shown) {
  const step = (label, by, disabled) => make("button", { type: "button", disabled, onclick: () => {
    fileState.page += by;
    drawFiles();
    byId("file-table").firstChild.scrollTop = 0;
  } }, label);
  const place = make("span", { role: "status" }, total ? `${grouped(start + 1)} to ${grouped(start + shown)} of ${grouped(total)}` : "No file matches.");
  byId("file-pager").replaceChildren(...(total > PAGE
    ? [step("Previous", -1, fileState.page === 0), step("Next", 1, start + shown >= total), place] : [place]));
}

// ----------------------------------------------------------------------------------------------------------------- viewer

const ORIGINAL = ""; // the left side's choice that is no codec
const MAX_SCALE = 16;

// scale: CSS pixels per picture pixel; x, y: the picture's corner within the stage, CSS pixels; split: the slider, 0 to 1,
// over the visible part of the picture; zoom: "fit", or a number while another scale was chosen.
const look = { picture: 0, level: 0, left: ORIGINAL, right: "", split: 0.5, zoom: "fit", scale: 1, x: 0, y: 0, errorMap: false, gain: 8 };
const parts = {};

const lookPicture = () => data.viewer[look.picture];
const lookLevel = () => lookPicture().levels[look.level];
const versionOf = (codec) => lookLevel()?.versions.find((version) => version.codec === codec);
const leftVersion = () => (look.left === ORIGINAL ? undefined : versionOf(look.left));
// The chosen codec may be missing at this size: the first one that is there stands in, the choice is kept for later.
const rightVersion = () => versionOf(look.right) ?? lookLevel()?.versions[0];

function fillViewer() {
  if (!data.viewer.length) {
    byId("viewer-about").textContent = "This report was made without pictures to look at.";
    return;
  }
  byId("viewer-about").textContent = "Drag the slider, or use the arrow keys. Zoom with the buttons, by pinching, or with Ctrl and the wheel; drag to move about when zoomed in.";
  byId("viewer-body").hidden = false;
  look.level = lookPicture().levels.length >> 1;
  look.right = rightVersion()?.codec ?? "";
  fillPictureControls();
  fillZoomControls();
  watchStage();
  new ResizeObserver(() => placeStage()).observe(byId("viewer-body"));
  window.addEventListener("resize", placeStage);
  drawViewer();
}

function fillPictureControls() {
  const step = (by) => () => choosePicture((look.picture + by + data.viewer.length) % data.viewer.length);
  const select = make("select", { id: "viewer-picture", "aria-label": "Picture", onchange: () => choosePicture(Number(select.value)) });
  fillSelect(select, data.viewer.map((picture, index) => [String(index), picture.image]), "0");
  const disabled = data.viewer.length < 2;
  const picture = control("Picture", make("div", { class: "with-steps" },
    make("button", { type: "button", id: "viewer-previous", "aria-label": "Previous picture", disabled, onclick: step(-1) }, "‹"), select,
    make("button", { type: "button", id: "viewer-next", "aria-label": "Next picture", disabled, onclick: step(1) }, "›")));
  picture.classList.add("grow");
  parts.picture = select;
  parts.levels = make("div", { id: "viewer-levels" });
  parts.left = selector("Left side", [], "", (codec) => { look.left = codec; drawViewer(); }, "viewer-left");
  parts.right = selector("Right side", [], "", (codec) => { look.right = codec; drawViewer(); }, "viewer-right");
  byId("viewer-picture-controls").append(picture, parts.levels, parts.left, parts.right);
}

function fillZoomControls() {
  parts.zoom = segments("Zoom", [["fit", "Fit"], [1, "1×"], [2, "2×"], [4, "4×"]], look.zoom, chooseZoom, "viewer-zoom");
  const toggle = make("button", { type: "button", id: "error-toggle", "aria-pressed": "false", onclick: () => {
    look.errorMap = !look.errorMap;
    toggle.setAttribute("aria-pressed", String(look.errorMap));
    drawErrorMap();
  } }, "Show on the right");
  parts.gain = segments("Amplified", [[4, "×4"], [8, "×8"], [16, "×16"]], look.gain, (gain) => { look.gain = gain; drawErrorMap(); }, "error-gain");
  byId("viewer-zoom-controls").append(parts.zoom, control("Error map", toggle), parts.gain);
}

function choosePicture(index) {
  const bpp = lookLevel()?.bpp;
  look.picture = index;
  // The level nearest to the one looked at: pictures need not have the same ones.
  const distance = lookPicture().levels.map((level) => Math.abs(level.bpp - bpp));
  look.level = Math.max(0, distance.indexOf(Math.min(...distance)));
  setZoom("fit");
  drawViewer();
}

// Everything that depends on the chosen picture, size and codecs.
function drawViewer() {
  const picture = lookPicture();
  parts.picture.value = String(look.picture);
  parts.levels.replaceChildren(segments("Size, bits per pixel", picture.levels.map((level, index) => [index, fixed(level.bpp, 2), `${grouped(level.n_bytes)} bytes`]),
    look.level, (index) => { look.level = index; drawViewer(); }));
  const codecs = (lookLevel()?.versions ?? []).map((version) => [version.codec, codecLabel(version.codec)]);
  const [left, right] = [leftVersion(), rightVersion()];
  fillSelect(parts.left.select, [[ORIGINAL, "Original"], ...codecs], left?.codec ?? ORIGINAL);
  fillSelect(parts.right.select, codecs, right?.codec ?? "");
  showSource(byId("left-image"), left?.source ?? picture.original, `${picture.image}, ${left ? codecLabel(left.codec) : "original"}`);
  showSource(byId("right-image"), right?.source ?? picture.original, `${picture.image}, ${right ? codecLabel(right.codec) : "original"}`);
  byId("left-tag").textContent = left ? codecLabel(left.codec) : "Original";
  byId("viewer-facts").replaceChildren(viewerFacts(left, right));
  placeStage();
  drawErrorMap();
}

// Only pictures on show are ever given to an <img>: the others stay text.
function showSource(image, source, alt) {
  if (image.getAttribute("src") !== source) image.src = source;
  image.alt = alt;
}

function viewerFacts(left, right) {
  const shown = data.metrics.filter((metric) => [left, right].some((side) => side && isNumber(side.metrics[metric.name])));
  const row = (label, show) => make("tr", {}, make("th", { scope: "row" }, label), ...[left, right].map((side) => cell(side ? show(side) : DASH, { class: "first" })));
  const sideName = (side) => make("td", { class: "first" }, ...(side ? [dot(side.codec), codecLabel(side.codec)] : ["Original"]));
  const head = make("tr", {}, columnHead("", { class: "corner" }), columnHead("Left", { class: "first" }), columnHead("Right", { class: "first" }));
  return frame(tableOf("What is shown", [head], [
    make("tr", {}, make("th", { scope: "row" }, "Codec"), sideName(left), sideName(right)),
    row("Setting", (side) => settingText(side.setting)),
    row("Bytes", (side) => grouped(side.n_bytes)),
    row("Bits per pixel", (side) => fixed(side.bpp, 3)),
    ...shown.map((metric) => row(metricTitle(metric), (side) => metricText(metric, side.metrics[metric.name]))),
  ]));
}

// ---- zoom and slider

const stageWidth = () => byId("stage").clientWidth;
const stageHeight = () => byId("stage").clientHeight;

function fitScale() {
  const { width, height } = lookPicture();
  return Math.min(1, stageWidth() / width, Math.max(280, window.innerHeight * 0.78) / height);
}

const isPannable = () => lookPicture().width * look.scale > stageWidth() + 0.5 || lookPicture().height * look.scale > stageHeight() + 0.5;

function setZoom(zoom) {
  look.zoom = zoom;
  parts.zoom.press(zoom);
}

function chooseZoom(zoom) {
  if (zoom !== "fit") zoomAround(zoom, stageWidth() / 2, stageHeight() / 2);
  setZoom(zoom);
  placeStage();
}

// Change the scale so that what is at (px, py) of the stage stays there.
function zoomAround(scale, px, py) {
  const wanted = Math.min(MAX_SCALE, scale);
  look.x = px - ((px - look.x) * wanted) / look.scale;
  look.y = py - ((py - look.y) * wanted) / look.scale;
  look.scale = wanted;
  setZoom(wanted);
  placeStage();
}

// A picture larger than the stage covers it, a smaller one is in its middle.
function clampedCorner(corner, size, room) {
  if (size <= room) return Math.round((room - size) / 2);
  return Math.round(Math.min(0, Math.max(room - size, corner)));
}

function placeStage() {
  const stage = byId("stage");
  const { width, height } = lookPicture();
  if (!stage.clientWidth) return;
  const fit = fitScale();
  stage.style.height = `${Math.max(Math.round(height * fit), Math.min(240, stage.clientWidth))}px`;
  if (look.zoom === "fit") look.scale = fit;
  look.x = clampedCorner(look.x, width * look.scale, stageWidth());
  look.y = clampedCorner(look.y, height * look.scale, stageHeight());
  stage.classList.toggle("pannable", isPannable());
  stage.classList.toggle("enlarged", look.scale > 1);
  for (const element of stage.querySelectorAll("img, canvas")) {
    // Sizes and not transform: scale(), which may smooth what image-rendering: pixelated leaves alone.
    element.style.width = `${width * look.scale}px`;
    element.style.height = `${height * look.scale}px`;
    element.style.transform = `translate(${look.x}px, ${look.y}px)`;
  }
  placeSplit();
}

// Left and right end of the visible part of the picture, CSS pixels within the stage.
const visibleEnds = () => [Math.max(0, look.x), Math.min(stageWidth(), look.x + lookPicture().width * look.scale)];

function placeSplit() {
  const [from, to] = visibleEnds();
  const at = from + look.split * (to - from);
  const handle = byId("handle");
  byId("left-layer").style.clipPath = `inset(0 ${stageWidth() - at}px 0 0)`;
  handle.style.transform = `translateX(${at}px)`;
  byId("left-tag").style.left = `${from + 10}px`;
  byId("right-tag").style.right = `${stageWidth() - to + 10}px`;
  for (const tag of [byId("left-tag"), byId("right-tag")]) tag.style.maxWidth = `${Math.max(0, (to - from) / 2 - 20)}px`;
  handle.setAttribute("aria-valuenow", String(Math.round(look.split * 100)));
  handle.setAttribute("aria-valuetext", `${Math.round(look.split * 100)} percent of ${byId("left-tag").textContent}`);
}

function setSplit(split) {
  look.split = Math.min(1, Math.max(0, split));
  placeSplit();
}

function splitAt(stageX) {
  const [from, to] = visibleEnds();
  setSplit((stageX - from) / Math.max(1, to - from));
}

const SPLIT_KEYS = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };

function onHandleKey(event) {
  const by = SPLIT_KEYS[event.key];
  if (by === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  setSplit(look.split + by * (event.shiftKey && event.key.startsWith("Arrow") ? 10 : 1));
}

// One pointer moves the slider, or the picture where there is more of it than fits; two pointers zoom.
function watchStage() {
  const stage = byId("stage");
  const pointers = new Map();
  let drag = null;
  const place = (event) => { const box = stage.getBoundingClientRect(); return { x: event.clientX - box.left, y: event.clientY - box.top }; };
  const finish = (event) => {
    pointers.delete(event.pointerId);
    drag = null;
    stage.classList.remove("panning");
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, place(event));
    stage.setPointerCapture(event.pointerId);
    drag = pointers.size === 1 ? startDrag(event, place(event)) : startPinch([...pointers.values()]);
    stage.classList.toggle("panning", drag.kind === "pan");
  });
  stage.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId) || !drag) return;
    pointers.set(event.pointerId, place(event));
    moveDrag(drag, place(event), [...pointers.values()]);
  });
  stage.addEventListener("pointerup", finish);
  stage.addEventListener("pointercancel", finish);
  stage.addEventListener("wheel", (event) => onWheel(event, place(event)), { passive: false });
  byId("handle").addEventListener("keydown", onHandleKey);
}

function startDrag(event, at) {
  const onHandle = byId("handle").contains(event.target);
  if (!onHandle && isPannable()) return { kind: "pan", dx: look.x - at.x, dy: look.y - at.y };
  const [from, to] = visibleEnds();
  const offset = onHandle ? from + look.split * (to - from) - at.x : 0; // the handle stays under the finger as it was gripped
  splitAt(at.x + offset);
  return { kind: "split", offset };
}

const gap = ([a, b]) => Math.hypot(a.x - b.x, a.y - b.y);
const startPinch = (two) => ({ kind: "pinch", gap: Math.max(1, gap(two)), scale: look.scale });

function moveDrag(drag, at, pointers) {
  if (drag.kind === "split") splitAt(at.x + drag.offset);
  if (drag.kind === "pan") {
    look.x = at.x + drag.dx;
    look.y = at.y + drag.dy;
    placeStage();
  }
  if (drag.kind === "pinch" && pointers.length > 1) {
    const [a, b] = pointers;
    zoomOrFit((drag.scale * gap([a, b])) / drag.gap, (a.x + b.x) / 2, (a.y + b.y) / 2);
  }
}

function zoomOrFit(scale, px, py) {
  if (scale > fitScale()) { zoomAround(scale, px, py); return; }
  setZoom("fit");
  placeStage();
}

// The plain wheel scrolls the page until the picture is zoomed in: nobody shall be caught here while scrolling by.
function onWheel(event, at) {
  if (!event.ctrlKey && look.scale <= fitScale()) return;
  event.preventDefault();
  const lines = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / 100 : event.deltaY / 3;
  zoomOrFit(look.scale * 1.25 ** -Math.max(-3, Math.min(3, lines)), at.x, at.y);
}

// ---- error map

// matplotlib's inferno (CC0) at 17 equal steps, but 0 is black itself.
const RAMP = ["#000000", "#0b0724", "#210c4a", "#3d0965", "#57106e", "#71196e", "#8a226a", "#a32c61", "#bc3754",
  "#d24644", "#e45a31", "#f1731d", "#f98e09", "#fcac11", "#f9cb35", "#f2ea69", "#fcffa4"];

// RGBA of the levels 0 to 255, as 32 bits each in this machine's byte order.
function rampTable() {
  const bytes = new Uint8Array(256 * 4);
  for (let level = 0; level < 256; level += 1) {
    const at = (level / 255) * (RAMP.length - 1);
    const step = Math.min(RAMP.length - 2, Math.floor(at));
    const [low, high] = [channelsOf(RAMP[step]), channelsOf(RAMP[step + 1])];
    for (let c = 0; c < 3; c += 1) bytes[level * 4 + c] = Math.round(low[c] + (high[c] - low[c]) * (at - step));
    bytes[level * 4 + 3] = 255;
  }
  return new Uint32Array(bytes.buffer);
}

const rampColours = rampTable();
const errors = { ticket: 0, key: [], sums: null };

async function pixelsOf(source, width, height) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

// Sum over R, G, B of the absolute differences, for each pixel.
function differenceSums(a, b) {
  const sums = new Uint16Array(a.length / 4);
  for (let i = 0, p = 0; p < sums.length; i += 4, p += 1) {
    sums[p] = Math.abs(a[i] - b[i]) + Math.abs(a[i + 1] - b[i + 1]) + Math.abs(a[i + 2] - b[i + 2]);
  }
  return sums;
}

async function drawErrorMap() {
  const ticket = ++errors.ticket; // pictures decode later, and by then something else may have been chosen
  const right = rightVersion();
  const on = look.errorMap && right !== undefined;
  byId("right-tag").textContent = right ? codecLabel(right.codec) + (on ? ", error" : "") : "Original";
  parts.gain.hidden = !on;
  byId("error-legend").hidden = !on;
  byId("error-canvas").hidden = !on;
  if (!on) return;
  const { original, width, height } = lookPicture();
  if (errors.key[0] !== original || errors.key[1] !== right.source) {
    byId("error-canvas").hidden = true; // rather the picture than another's errors
    const pixels = await Promise.all([pixelsOf(original, width, height), pixelsOf(right.source, width, height)]).catch(() => null);
    if (ticket !== errors.ticket) return;
    if (!pixels) {
      byId("error-legend").textContent = "This browser cannot read one of the two pictures.";
      return;
    }
    const [a, b] = pixels;
    Object.assign(errors, { key: [original, right.source], sums: differenceSums(a, b) });
  }
  paintErrors(width, height);
  drawErrorLegend();
  byId("error-canvas").hidden = false;
}

function paintErrors(width, height) {
  const canvas = byId("error-canvas");
  canvas.width = width;
  canvas.height = height;
  const painted = new ImageData(width, height);
  const pixels = new Uint32Array(painted.data.buffer);
  const factor = look.gain / 3;
  for (let p = 0; p < pixels.length; p += 1) pixels[p] = rampColours[Math.min(255, Math.round(errors.sums[p] * factor))];
  canvas.getContext("2d").putImageData(painted, 0, 0);
}

function drawErrorLegend() {
  let [total, highest] = [0, 0];
  for (const sum of errors.sums) { total += sum; if (sum > highest) highest = sum; }
  const white = 255 / look.gain;
  byId("error-legend").replaceChildren(
    make("div", { class: "ramp", style: `background:linear-gradient(90deg,${RAMP.join(",")})` }),
    make("div", { class: "ramp-labels" }, ...[0, white / 2].map((level) => make("span", {}, fixed(level, level ? 1 : 0))), make("span", {}, `≥${NARROW}${fixed(white, 1)}`)),
    make("div", {}, `Mean absolute difference of R, G, B from the original, in levels of 255. Here: mean ${fixed(total / 3 / errors.sums.length, 2)}, highest ${fixed(highest / 3, 1)}.`),
  );
}

// ------------------------------------------------------------------------------------------------------------------ start

function start() {
  fillHeader();
  fillCurves();
  fillTables();
  fillHistograms();
  fillFiles();
  fillViewer();
  watchTips();
}

// What holds colours worked out here is drawn anew when the colour scheme or the layout's kind changes.
function redraw() {
  if (data.curves.length) drawCurves();
  drawTables();
  if (histogramState.metric) drawHistogram();
  if (data.rows.length) drawFiles();
  if (data.viewer.length) drawViewer();
}

start();
darkMode.addEventListener("change", redraw);
window.matchMedia("(max-width: 700px)").addEventListener("change", redraw);
