// The map of the world and the replay. Outlines are coarse on purpose: they say where, not how long a coast is.
"use strict";
const LAND = [
  [[-168, 66], [-156, 71], [-128, 70], [-95, 72], [-82, 74], [-62, 60], [-55, 52], [-66, 45], [-70, 42], [-76, 35], [-81, 31], [-80, 25], [-83, 30], [-90, 29], [-97, 27], [-97, 20], [-91, 18], [-87, 21], [-88, 16], [-83, 15], [-83, 10], [-78, 8], [-82, 7], [-92, 14], [-105, 20], [-112, 30], [-117, 32], [-124, 41], [-124, 48], [-134, 58], [-150, 60], [-164, 55], [-158, 58], [-166, 62]],
  [[-78, 8], [-72, 12], [-62, 10], [-50, 1], [-35, -6], [-39, -15], [-48, -26], [-57, -36], [-65, -42], [-69, -52], [-75, -50], [-73, -38], [-70, -20], [-77, -12], [-81, -5], [-80, 1]],
  [[-46, 60], [-22, 70], [-18, 78], [-32, 83], [-60, 82], [-70, 77], [-54, 70]],
  [[-9, 43], [-9, 37], [-5, 36], [3, 42], [9, 44], [16, 38], [18, 40], [13, 45], [20, 40], [23, 37], [27, 41], [36, 36], [34, 31], [43, 13], [52, 17], [60, 23], [56, 26], [50, 30], [58, 25], [67, 25], [73, 19], [77, 8], [80, 15], [88, 22], [94, 17], [98, 9], [103, 2], [101, 13], [106, 9], [109, 13], [106, 20], [117, 23], [122, 30], [119, 37], [127, 35], [129, 42], [140, 50], [142, 59], [160, 61], [156, 52], [163, 58], [178, 64], [178, 69], [140, 73], [104, 78], [70, 73], [44, 67], [41, 66], [30, 70], [15, 68], [5, 60], [10, 58], [12, 56], [17, 61], [23, 66], [22, 60], [29, 60], [20, 54], [9, 54], [8, 57], [2, 51], [-5, 48], [-1, 44]],
  [[-6, 36], [10, 37], [11, 33], [20, 31], [32, 31], [37, 21], [43, 11], [51, 12], [40, -3], [40, -16], [33, -26], [27, -34], [18, -34], [12, -17], [9, 1], [5, 6], [-8, 4], [-17, 14], [-16, 22], [-10, 30]],
  [[114, -22], [122, -18], [130, -12], [136, -12], [136, -16], [141, -17], [142, -11], [146, -19], [153, -26], [150, -37], [140, -38], [131, -32], [116, -35]],
  [[-5, 50], [1, 51], [0, 54], [-2, 58], [-5, 58], [-3, 54]], [[-10, 52], [-6, 52], [-6, 55], [-9, 54]], [[-22, 64], [-14, 65], [-16, 66.5], [-23, 66]],
  [[131, 31], [135, 34], [141, 36], [141, 41], [145, 44], [141, 45], [139, 38], [131, 34]], [[95, 5], [104, -3], [105, -6], [98, 1]], [[105, -7], [114, -8], [114, -7]], [[109, 1], [117, 7], [119, 5], [116, -4], [110, -2]], [[131, -1], [141, -3], [150, -10], [138, -8]],
  [[121, 18], [122, 14], [126, 7], [121, 14]], [[44, -16], [50, -16], [47, -25], [44, -23]], [[166, -46], [173, -41], [173, -35], [178, -38], [171, -46]], [[80, 6], [82, 7], [80, 10]],
];
const project = ([latitude, longitude]) => [longitude + 180, 84 - latitude];
const heat = (load) => `color-mix(in oklab, var(--c0), var(--c1) ${Math.round(Math.max(0, Math.min(1, load)) * 100)}%)`;
const before = (points, at) => { let value = points.length ? points[0][1] : 0; for (const [when, what] of points) { if (when > at) break; value = what; } return value; };

function drawMap() {
  const run = RUNS[shownSeed];
  if (!run || !run.regions.length) return;
  $("world").hidden = false;
  const end = run.virtual_s, loaded = run.regions.some((region) => region.load.length);
  $("maptime").hidden = !loaded;
  const now = (+$("mapslider").value / 1000) * end;
  $("mapclock").textContent = Math.round(now) + " s";
  $("map").textContent = "";
  const svg = make("svg", { viewBox: "0 0 360 144", role: "img", "aria-label": "World map: " + run.regions.map((r) => `${r.name}, ${r.peers} peers`).join("; ") }, $("map"));
  for (const land of LAND) make("path", { class: "land", d: "M" + land.map(([lon, lat]) => project([lat, lon]).join(" ")).join("L") + "Z" }, svg);
  const most = Math.max(1, ...run.flows.map((flow) => flow.jobs));
  for (const flow of run.flows) {
    const a = run.regions[flow.from], b = run.regions[flow.to];
    if (!a || !b || flow.from === flow.to) continue;
    const [x1, y1] = project(a.at), [x2, y2] = project(b.at), lift = Math.hypot(x2 - x1, y2 - y1) * 0.22;
    const arc = make("path", { class: "flow", d: `M${x1} ${y1}Q${(x1 + x2) / 2} ${(y1 + y2) / 2 - lift} ${x2} ${y2}`, "stroke-width": 0.15 + 2.4 * (flow.jobs / most) }, svg);
    arc.addEventListener("pointermove", (event) => tip(event, `${a.name} → ${b.name}\n${number(flow.jobs)} jobs`));
    arc.addEventListener("pointerleave", () => tip(null, ""));
  }
  const largest = Math.max(1, ...run.regions.map((region) => region.peers));
  for (const region of run.regions) {
    const [x, y] = project(region.at), load = before(region.load, now);
    const dot = make("circle", { class: "region", cx: x, cy: y, r: 1.6 + 3.4 * Math.sqrt(region.peers / largest), style: "fill:" + (region.load.length ? heat(load) : "var(--accent)") }, svg);
    make("text", { x, y: y + 9, "text-anchor": "middle", style: "font-size:4.6px;fill:var(--ink)" }, svg, region.name);
    const words = [region.name, region.peers + " peers"];
    if (region.load.length) words.push(Math.round(load * 100) + " % busy");
    if (region.asked) words.push(number(region.asked) + " jobs asked, " + number(region.served) + " served");
    dot.addEventListener("pointermove", (event) => tip(event, words.join("\n")));
    dot.addEventListener("pointerleave", () => tip(null, ""));
  }
}
$("mapslider").addEventListener("input", drawMap);
drawMap();

// The replay is the first seed's: events in order of time, messages drawn while they travel.
function startReplay(run) {
  const replay = run.replay, events = replay.events, canvas = $("stage"), pen = canvas.getContext("2d");
  $("replay").hidden = false;
  const W = 1200, H = 560, end = Math.max(1, run.virtual_s * 1000);
  const geographic = run.regions.length > 0;
  const crowd = new Map();
  const places = replay.peers.map((peer, index) => {
    if (!geographic) {
      const angle = (index / replay.peers.length) * 2 * Math.PI - Math.PI / 2;
      return [W / 2 + 470 * Math.cos(angle), H / 2 + 235 * Math.sin(angle)];
    }
    const nth = crowd.get(peer.region) || 0;
    crowd.set(peer.region, nth + 1);
    const [x, y] = project(run.regions[peer.region].at), turn = nth * 2.4, out = 7 * Math.sqrt(nth) + (nth ? 8 : 0);
    return [(x / 360) * W + out * Math.cos(turn), (y / 144) * H + out * Math.sin(turn)];
  });
  const KINDS = { gossip: 0, ping: 6, push: 0, announce: 3, job: 1, answer: 2 };
  let now = 0, next = 0, playing = false, last = 0, up = new Set(), jobs = new Map(), live = [], flash = new Map();
  const style = () => getComputedStyle(document.documentElement);
  let paint = {};
  const repaint = () => { const s = style(); for (const name of ["ink", "soft", "land", "card", "bad", "good", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"]) paint[name] = s.getPropertyValue("--" + name).trim(); };
  repaint();
  const lines = [];
  const told = (event) => {
    const who = (index) => (replay.peers[index] || { name: "?" }).name;
    const when = (event.at / 1000).toFixed(3).padStart(9) + " s  ";
    if (event.kind === "message") return `${when}${who(event.from)} → ${who(event.to)}: ${event.what}, ${event.bytes} bytes, ${Math.round(event.until - event.at)} ms`;
    if (event.kind === "job") return `${when}job ${event.job} ${event.state} at ${who(event.peer)}`;
    if (event.kind === "note") return when + event.text;
    return `${when}${who(event.peer)} is ${event.kind}`;
  };
  function apply(event) {
    if (event.kind === "up") { up.add(event.peer); flash.set(event.peer, event.at); }
    if (event.kind === "down") { up.delete(event.peer); flash.set(event.peer, event.at); }
    if (event.kind === "message") live.push(event);
    if (event.kind === "job") { if (event.state === "answered" || event.state === "failed") jobs.delete(event.job); else jobs.set(event.job, event); flash.set(event.peer, event.at); }
    lines.push(event);
    if (lines.length > 6) lines.shift();
  }
  function seek(to) {
    if (to < now) { now = 0; next = 0; up = new Set(); jobs = new Map(); live = []; flash = new Map(); lines.length = 0; }
    while (next < events.length && events[next].at <= to) apply(events[next++]);
    now = to;
    live = live.filter((message) => message.until > now);
  }
  function draw() {
    pen.clearRect(0, 0, W, H);
    if (geographic) {
      pen.fillStyle = paint.land;
      for (const land of LAND) {
        pen.beginPath();
        land.forEach(([lon, lat], i) => { const [x, y] = project([lat, lon]); pen[i ? "lineTo" : "moveTo"]((x / 360) * W, (y / 144) * H); });
        pen.fill();
      }
    }
    for (const message of live) {
      const a = places[message.from], b = places[message.to];
      if (!a || !b) continue;
      const part = Math.min(1, (now - message.at) / Math.max(1e-6, message.until - message.at));
      const hue = paint["c" + (KINDS[message.what] ?? 5)];
      const x = a[0] + (b[0] - a[0]) * part, y = a[1] + (b[1] - a[1]) * part;
      pen.strokeStyle = hue; pen.globalAlpha = 0.16; pen.lineWidth = 1;
      pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(x, y); pen.stroke();
      pen.globalAlpha = 0.95; pen.fillStyle = hue;
      pen.beginPath(); pen.arc(x, y, 1.8 + Math.min(5, Math.sqrt(message.bytes) / 18), 0, 7); pen.fill();
    }
    pen.globalAlpha = 1;
    const busy = new Map();
    for (const job of jobs.values()) busy.set(job.peer, (busy.get(job.peer) || 0) + 1);
    places.forEach(([x, y], index) => {
      const on = up.has(index), fresh = Math.max(0, 1 - (now - (flash.get(index) ?? -1e9)) / 900);
      if (fresh > 0) { pen.strokeStyle = on ? paint.good : paint.bad; pen.globalAlpha = fresh; pen.lineWidth = 2; pen.beginPath(); pen.arc(x, y, 9 + 16 * (1 - fresh), 0, 7); pen.stroke(); pen.globalAlpha = 1; }
      pen.beginPath(); pen.arc(x, y, 7, 0, 7); pen.fillStyle = on ? paint.ink : paint.card; pen.fill();
      pen.strokeStyle = on ? paint.card : paint.bad; pen.lineWidth = 1.6; pen.stroke();
      const load = busy.get(index);
      if (load) { pen.fillStyle = paint.c1; pen.font = "600 12px system-ui"; pen.textAlign = "center"; pen.fillText(load, x, y - 11); }
      if (!geographic && replay.peers.length <= 40) { pen.fillStyle = paint.soft; pen.font = "12px system-ui"; pen.textAlign = "center"; pen.fillText(replay.peers[index].name, x, y + (y > H / 2 ? 23 : -13)); }
    });
    if (geographic) run.regions.forEach((region) => { const [x, y] = project(region.at); pen.fillStyle = paint.ink; pen.font = "13px system-ui"; pen.textAlign = "center"; pen.fillText(region.name, (x / 360) * W, (y / 144) * H + 40); });
    $("clock").textContent = (now / 1000).toFixed(2) + " s";
    $("scrub").value = Math.round((now / end) * 10000);
    $("log").textContent = "";
    for (const line of lines) make("li", {}, $("log"), told(line));
  }
  function frame(stamp) {
    if (!playing) return;
    const passed = last ? Math.min(100, stamp - last) : 0;
    last = stamp;
    seek(Math.min(end, now + passed * +$("speed").value));
    if (now >= end) play(false);
    draw();
    requestAnimationFrame(frame);
  }
  function play(on) {
    if (on && now >= end) seek(0);
    playing = on; last = 0;
    $("play").textContent = on ? "Pause" : "Play";
    if (on) requestAnimationFrame(frame);
  }
  function step(way) {
    play(false);
    if (way > 0) { if (next < events.length) seek(events[next].at); }
    else { let index = next - 1; while (index >= 0 && events[index].at >= now) index--; seek(index >= 0 ? events[index].at : 0); }
    draw();
  }
  $("play").addEventListener("click", () => play(!playing));
  $("step").addEventListener("click", () => step(1));
  $("back").addEventListener("click", () => step(-1));
  $("scrub").addEventListener("input", () => { play(false); seek((+$("scrub").value / 10000) * end); draw(); });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === " ") play(!playing); else if (event.key === "ArrowRight") step(1); else if (event.key === "ArrowLeft") step(-1); else return;
    event.preventDefault();
  });
  if (typeof matchMedia === "function") matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { repaint(); draw(); });
  seek(Math.min(end, events.length ? events[Math.min(events.length - 1, 60)].at : 0));
  draw();
}
if (RUNS.length && RUNS[0].replay && RUNS[0].replay.events.length) startReplay(RUNS[0]);
