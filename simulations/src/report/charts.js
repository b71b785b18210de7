// Facts, charts and tables of the page. Data first, then small parts, then what is drawn.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs, SUMS = DATA.summaries;
const $ = (id) => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";
let shownSeed = 0;

function make(tag, attributes, parent, text) {
  const svg = ["svg", "path", "line", "text", "circle", "g", "rect", "title"].includes(tag);
  const node = svg ? document.createElementNS(NS, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}
function number(value) {
  if (value === null || value === undefined || !isFinite(value)) return "—";
  const size = Math.abs(value);
  if (size >= 1e9) return (value / 1e9).toFixed(2) + " G";
  if (size >= 1e6) return (value / 1e6).toFixed(2) + " M";
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size >= 10) return (Math.round(value * 10) / 10).toString();
  return (Math.round(value * 1000) / 1000).toString();
}
const colour = (index) => "var(--c" + (index % 8) + ")";
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const plain = (name) => name.replace(/_ms$/, "").replace(/_/g, " ").replace("ttft", "time to first token");

function tip(event, text) {
  const box = $("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  const left = Math.min(event.pageX + 14, document.documentElement.clientWidth - box.offsetWidth - 8);
  box.style.left = Math.max(4, left) + "px";
  box.style.top = event.pageY + 14 + "px";
}

function ticks(low, high, log) {
  if (log) {
    const all = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const digit of [1, 2, 5]) {
        const tick = digit * 10 ** power;
        if (tick >= low && tick <= high) all.push(tick);
      }
    return all.length > 7 ? all.filter((tick) => /^1/.test(tick.toExponential())) : all;
  }
  const rough = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((digit) => digit * power >= rough) * power;
  const all = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) all.push(tick);
  return all;
}

// lines: [{name, colour, points: [[x, y]], faint}]; one legend entry for each name.
function chart(title, lines, how) {
  lines = lines.filter((line) => line.points.length > 0);
  if (!lines.length) return;
  const card = make("section", { class: "card" }, $("charts"));
  make("h2", {}, card, title);
  if (how.hint) make("p", { class: "hint" }, card, how.hint);
  const W = 560, H = 300, L = 58, R = 12, T = 10, B = 42;
  const xs = lines.flatMap((line) => line.points.map((p) => p[0]));
  const ys = lines.flatMap((line) => line.points.map((p) => p[1]));
  const most = xs.reduce((a, b) => Math.max(a, b), 0);
  const least = xs.reduce((a, b) => Math.min(a, b), Infinity);
  const log = how.log && most > 20 * Math.max(least, 1e-3);
  const x0 = log ? Math.max(least, most / 1e5, 1e-3) : Math.min(0, least), x1 = most > x0 ? most : x0 + 1;
  const y0 = 0, top = how.share ? 1 : ys.reduce((a, b) => Math.max(a, b), 0) * 1.06 || 1;
  const at = (x) => (log ? Math.log(Math.max(x, x0) / x0) / Math.log(x1 / x0) : (x - x0) / (x1 - x0));
  const X = (x) => L + at(x) * (W - L - R), Y = (y) => H - B - ((y - y0) / (top - y0)) * (H - T - B);
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title + ". " + lines.filter((l) => !l.faint).map((l) => l.name).join(", ") }, card);
  for (const tick of ticks(y0, top, false)) {
    make("line", { class: "axis", x1: L, x2: W - R, y1: Y(tick), y2: Y(tick) }, svg);
    make("text", { x: L - 8, y: Y(tick) + 4, "text-anchor": "end" }, svg, how.share ? Math.round(tick * 100) + " %" : number(tick));
  }
  for (const tick of ticks(x0, x1, log)) make("text", { x: X(tick), y: H - B + 18, "text-anchor": "middle" }, svg, number(tick));
  make("text", { x: (L + W - R) / 2, y: H - 4, "text-anchor": "middle" }, svg, how.x + (log ? " (log scale)" : ""));
  const paths = lines.map((line) => {
    const d = line.points.map((p, i) => (i ? "L" : "M") + X(p[0]).toFixed(1) + " " + Y(p[1]).toFixed(1)).join("");
    return make("path", { class: "curve" + (line.faint ? " faint" : ""), d, style: "stroke:" + line.colour }, svg);
  });
  const cross = make("line", { class: "cross", y1: T, y2: H - B, visibility: "hidden" }, svg);
  const strong = lines.filter((line) => !line.faint);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const part = ((event.clientX - box.left) / box.width * W - L) / (W - L - R);
    if (part < 0 || part > 1) return;
    const x = log ? x0 * (x1 / x0) ** part : x0 + part * (x1 - x0);
    cross.setAttribute("x1", X(x)); cross.setAttribute("x2", X(x)); cross.setAttribute("visibility", "visible");
    const texts = strong.filter((line) => !line.off).map((line) => {
      let low = 0, high = line.points.length;
      while (low < high) { const mid = (low + high) >> 1; if (line.points[mid][0] <= x) low = mid + 1; else high = mid; }
      const y = low ? line.points[low - 1][1] : how.share ? 0 : line.points[0][1];
      return line.name + "  " + (how.share ? (y * 100).toFixed(1) + " %" : number(y));
    });
    tip(event, how.x + " " + number(x) + "\n" + texts.join("\n"));
  });
  svg.addEventListener("pointerleave", () => { tip(null, ""); cross.setAttribute("visibility", "hidden"); });
  const names = [...new Set(strong.map((line) => line.name))];
  const legend = make("ul", { class: "legend" }, card);
  for (const name of names) {
    const item = make("li", {}, legend), button = make("button", { type: "button", "aria-pressed": "true" }, item);
    make("i", { style: "background:" + strong.find((line) => line.name === name).colour }, button);
    button.appendChild(document.createTextNode(name));
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      lines.forEach((line, i) => { if (line.name === name) { line.off = !on; paths[i].style.display = on ? "" : "none"; } });
    });
  }
  if (how.table) {
    const details = make("details", {}, card);
    make("summary", {}, details, "As numbers");
    fill(make("table", {}, make("div", { class: "scroll" }, details)), how.table[0], how.table.slice(1));
  }
}

function fill(table, head, rows) {
  table.textContent = "";
  const top = make("tr", {}, make("thead", {}, table)), body = make("tbody", {}, table);
  head.forEach((cell, i) => make("th", { scope: "col", class: i ? "n" : "" }, top, cell));
  for (const row of rows) {
    const line = make("tr", {}, body);
    row.forEach((cell, i) => make("td", { class: typeof cell === "number" || cell === "—" ? "n" : i === 1 ? "mono" : "" }, line, typeof cell === "number" ? number(cell) : cell));
  }
}

function facts() {
  $("asks").textContent = DATA.manifest.asks;
  $("expect").textContent = DATA.manifest.expect ? "A good answer: " + DATA.manifest.expect : "";
  const failed = RUNS.reduce((sum, run) => sum + run.violations.length, 0);
  $("verdict").textContent = failed ? `${failed} check${failed > 1 ? "s" : ""} failed` : RUNS.length ? `All checks held under ${RUNS.length} seed${RUNS.length > 1 ? "s" : ""}` : "No seed has finished yet";
  $("verdict").classList.toggle("bad", failed > 0 || !RUNS.length);
  const tile = (name, pick, unit) => {
    const values = SUMS.map(pick).filter((value) => value !== undefined && value !== null && isFinite(value));
    if (!values.length) return;
    const box = make("div", { class: "tile" }, $("figures")), big = make("b", {}, box, number(mean(values)));
    if (unit) make("small", {}, big, " " + unit);
    make("span", {}, box, name);
    const low = Math.min(...values), high = Math.max(...values);
    make("i", {}, box, values.length > 1 && low !== high ? `${number(low)} to ${number(high)} over seeds` : values.length > 1 ? "the same under all seeds" : "one seed");
  };
  tile("first token, p99", (s) => s.ttft_ms && s.ttft_ms.p99, "ms");
  tile("the omniscient scheduler's", (s) => s.bound_ttft_ms && s.bound_ttft_ms.p99, "ms");
  tile("first token against the bound, p99", (s) => s.ttft_ms && s.bound_ttft_ms && s.ttft_ms.p99 / s.bound_ttft_ms.p99, "×");
  tile("a record reaches half", (s) => s.dissemination_ms && s.dissemination_ms.p50, "ms");
  tile("a record reaches 99 %", (s) => s.dissemination_ms && s.dissemination_ms.p99, "ms");
  tile("a record reaches 99.9 %", (s) => s.dissemination_ms && s.dissemination_ms.p999, "ms");
  tile("a death is known, p99", (s) => s.detection_ms && s.detection_ms.p99, "ms");
  tile("copies of a record", (s) => s.copies, "");
  tile("bytes against the record", (s) => s.bytes_over_record, "×");
  tile("peers", (s) => s.peers, "");
  tile("jobs answered", (s) => s.jobs || undefined, "");
  tile("virtual seconds a CPU second", (s) => (s.cpu_s > 0 ? s.virtual_s / s.cpu_s : undefined), "");
  tile("memory at most", (s) => s.rss_mb || undefined, "MB");
}

function cdf(spread) {
  const last = Math.max(spread.kept.length - 1, 1);
  return spread.kept.map((value, index) => [value, spread.kept.length === 1 ? 1 : index / last]);
}

function charts() {
  $("charts").textContent = "";
  const groups = new Map();
  for (const run of RUNS) for (const name of Object.keys(run.distributions)) {
    const base = name === "bound_ttft_ms" ? "ttft_ms" : name.split("/")[0];
    if (!groups.has(base)) groups.set(base, new Set());
    groups.get(base).add(name);
  }
  for (const [base, names] of groups) {
    const lines = [], rows = [];
    [...names].sort().forEach((name, index) => {
      const label = name === "bound_ttft_ms" ? "omniscient" : name === "ttft_ms" && names.size > 1 ? ((RUNS[shownSeed] && RUNS[shownSeed].strategies[0]) || "first strategy") : plain(name.split("/")[1] || base);
      RUNS.forEach((run, at) => {
        const spread = run.distributions[name];
        if (!spread) return;
        lines.push({ name: label, colour: colour(index), points: cdf(spread), faint: at !== shownSeed });
        if (at === shownSeed) rows.push([label, spread.p50, spread.p90, spread.p99, spread.p999, spread.max, spread.count]);
      });
    });
    chart(plain(base) + ": how many by then", lines, { x: base.endsWith("_ms") ? "milliseconds" : "", log: true, share: true, hint: RUNS.length > 1 ? "Faint lines are the other seeds." : "", table: [["", "p50", "p90", "p99", "p99.9", "max", "of"], ...rows] });
  }
  const curves = new Map();
  RUNS.forEach((run, at) => run.gossip_curves.forEach((curve) => {
    if (!curves.has(curve.name)) curves.set(curve.name, []);
    curves.get(curve.name).push({ points: curve.points, faint: at !== shownSeed });
  }));
  if (curves.size) {
    const lines = [...curves].flatMap(([name, all], index) => all.map((line) => ({ name, colour: colour(index), ...line })));
    chart("How news spreads", lines, { x: "milliseconds after", log: true, share: true, hint: "Pairs of peers that know, of all that come to know." });
  }
  const run = RUNS[shownSeed];
  if (!run) return;
  const series = new Map();
  for (const line of run.series) {
    const [base, part] = line.name.split("/");
    if (!series.has(base)) series.set(base, []);
    series.get(base).push({ name: (part || plain(base)) + (line.unit ? " (" + line.unit + ")" : ""), points: line.points });
  }
  for (const [base, lines] of series) chart(plain(base) + " over time", lines.map((line, index) => ({ ...line, colour: colour(index) })), { x: "virtual seconds" });
  const loads = run.regions.filter((region) => region.load.length);
  if (loads.length) chart("How busy each region is", loads.map((region, index) => ({ name: region.name, colour: colour(index), points: region.load })), { x: "virtual seconds", share: true });
}

function rest() {
  const run = RUNS[shownSeed];
  if (run) $("seedfact").textContent = run.hash;
  $("costs").hidden = !run || !run.costs.length;
  if (run && run.costs.length) {
    const most = Math.max(...run.costs.map((cost) => cost.amount), 1e-9), box = $("costbars");
    box.textContent = "";
    const table = make("table", { class: "bars" }, box);
    for (const cost of run.costs) {
      const row = make("tr", {}, table);
      make("td", {}, row, cost.name);
      make("td", { class: "n" }, row, number(cost.amount) + " " + cost.unit);
      make("i", { style: `width:${(cost.amount / most) * 100}%` }, make("td", { class: "bar" }, row));
    }
  }
  const failed = RUNS.flatMap((each) => each.violations.map((violation) => ({ seed: each.seed, ...violation })));
  $("failed").hidden = !failed.length;
  $("violations").textContent = "";
  for (const each of failed.slice(0, 200)) {
    const item = make("li", {}, $("violations"), `${each.what} (seed ${each.seed}, ${each.event ? "event " + each.event : each.check}, ${number(each.at_ms)} ms) `);
    make("code", {}, item, `hansa-sim run ${DATA.manifest.name} --seeds ${each.seed}`);
  }
  const names = [...new Set(RUNS.flatMap((each) => each.facts.map((fact) => fact.name)))];
  const quantile = (name, q) => (each) => (each.distributions[name] ? each.distributions[name][q] : "—");
  const columns = [["seed", (e) => String(e.seed)], ["hash", (e) => e.hash], ["failed", (e) => e.violations.length], ["jobs", (e) => e.jobs], ["spread p50", quantile("dissemination_ms", "p50")], ["spread p99", quantile("dissemination_ms", "p99")], ["found p99", quantile("detection_ms", "p99")], ["first token p50", quantile("ttft_ms", "p50")], ["first token p99", quantile("ttft_ms", "p99")], ["bound p99", quantile("bound_ttft_ms", "p99")], ["CPU s", (e) => e.cpu_s], ...names.map((name) => [name, (e) => { const fact = e.facts.find((f) => f.name === name); return fact ? fact.value : "—"; }])];
  const used = columns.filter(([, pick]) => RUNS.some((each) => pick(each) !== "—"));
  fill($("seeds"), used.map(([name]) => name), RUNS.map((each) => used.map(([, pick]) => pick(each))));
  $("foot").textContent = `hansa-sim ${DATA.manifest.version}, scenario ${DATA.manifest.digest}. Every figure follows from the scenario and the seed.`;
}

facts();
RUNS.forEach((run, index) => make("option", { value: index }, $("seed"), String(run.seed)));
$("seed").addEventListener("change", () => { shownSeed = +$("seed").value; charts(); rest(); drawMap(); });
charts();
rest();
