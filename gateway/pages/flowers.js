// The flower client: pictures to the model, through the gateway's port like any client. What sends
// them is a process beside the gateway; this page tells it what to do and draws what comes back.

import { Chart } from "./chart.js";
import { attribute, brief, byId, colour, element, number, text } from "./parts.js";
import { complain, give, onToken, showLink } from "./shell.js";
import { call, keepFollowing } from "./stream.js";

const HISTORY = 1500; // five minutes of reports

let session = null;
let running = false;
let side = 224;
let slices = new Map();
let shown = -1; // the tile whose answer is beside
const tiles = [];
const own = new Map(); // tile → pixels that were dropped on it
const history = { times: [], p50: [], p90: [], rates: [] };
const charts = {
  rate: new Chart(byId("chart-rate"), { stacked: true, format: (v) => number(v), label: "Answers per second" }),
  latency: new Chart(byId("chart-latency"), { format: brief, label: "Latency in milliseconds" }),
};
const canWrite = { live: false };

// --- tiles ------------------------------------------------------------------------------------

async function build() {
  const pictures = await (await fetch("/static/flowers/pictures.json")).json();
  pictures.forEach(({ file, name }, index) => {
    const parts = {
      image: element("img", { src: `/static/flowers/${file}`, alt: name, width: 224, height: 224, draggable: "false" }),
      who: element("span", { class: "who" }),
      ms: element("span", { class: "ms" }),
      name: element("span", { class: "name" }, "\u00a0"),
    };
    const root = element("button", { type: "button", class: "tile", "data-tile": index, title: name, onclick: () => ask(index) }, ...Object.values(parts));
    root.addEventListener("dragover", (event) => {
      event.preventDefault();
      root.classList.add("over");
    });
    root.addEventListener("dragleave", () => root.classList.remove("over"));
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      root.classList.remove("over");
      take([...event.dataTransfer.files], index);
    });
    tiles.push({ root, parts, is: name });
  });
  byId("grid").append(...tiles.map((tile) => tile.root));
}

function answered(index, [slice, ms, name, score]) {
  const { root, parts, is } = tiles[index];
  const failed = ms == null;
  attribute(root, "data-failed", String(failed));
  attribute(root, "data-asked", "false");
  if (failed) {
    text(parts.name, "no answer");
    return;
  }
  root.style.setProperty("--hue", hue(slice));
  text(parts.who, slice);
  text(parts.ms, `${brief(ms)} ms`);
  text(parts.name, name);
  attribute(root, "data-right", String(own.has(index) || name === is));
  attribute(root, "title", `${name} (${Math.round(100 * score)} %)${own.has(index) ? "" : `; it is a ${is}`}`);
}

async function ask(index) {
  if (session == null) return;
  shown = index;
  tiles.forEach((tile, i) => attribute(tile.root, "aria-current", String(i === index)));
  attribute(tiles[index].root, "data-asked", "true");
  try {
    await call("POST", `/v1/flowers/${session}/pictures/${index}`);
  } catch (error) {
    attribute(tiles[index].root, "data-asked", "false");
    complain(error);
  }
}

function told({ picture, error, slice, took_ms: took, classes }) {
  attribute(tiles[picture].root, "data-asked", "false");
  if (picture !== shown) return;
  const face = tiles[picture].parts.image;
  const copy = face.cloneNode();
  if (face instanceof HTMLCanvasElement) copy.getContext("2d").drawImage(face, 0, 0);
  const beside = byId("answer");
  beside.style.setProperty("--hue", hue(slice));
  if (error) {
    beside.replaceChildren(element("h2", {}, "No answer"), copy, element("p", { class: "note" }, error));
    return;
  }
  beside.replaceChildren(
    element("h2", {}, classes[0]?.[1] ?? "nothing"),
    copy,
    element("ol", {}, ...classes.map(([score, name]) => {
      const bar = element("i");
      bar.style.width = `${100 * score}%`;
      return element("li", {}, bar, element("span", {}, name), element("b", {}, `${number(100 * score, 1)} %`));
    })),
    element("p", { class: "by" }, element("b", {}, slice ? `slice ${slice}` : "the gateway"), element("span", {}, `${brief(took)} ms`)),
    element("p", { class: "note" }, own.has(picture) ? "Your picture. The model that comes with the gateway knows drawings, not photographs." : `It is a ${tiles[picture].is}.`),
  );
}

// --- pictures of the user's own ---------------------------------------------------------------

async function take(files, first = 0) {
  let index = first;
  for (const file of files) {
    try {
      await put(index % tiles.length, await createImageBitmap(file));
      await ask(index % tiles.length);
    } catch (error) {
      complain(error instanceof DOMException ? new Error(`${file.name} is no picture that this browser can read`) : error);
    }
    index += 1;
  }
}

// The middle of the picture, as large as fits, in the size that the model takes.
async function put(index, picture) {
  const canvas = element("canvas", { width: side, height: side, role: "img", "aria-label": "your picture" });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const edge = Math.min(picture.width, picture.height);
  pen.drawImage(picture, (picture.width - edge) / 2, (picture.height - edge) / 2, edge, edge, 0, 0, side, side);
  const { data } = pen.getImageData(0, 0, side, side);
  const rgb = new Uint8Array(side * side * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  own.set(index, rgb);
  tiles[index].parts.image.replaceWith(canvas);
  tiles[index].parts.image = canvas;
  await call("PUT", `/v1/flowers/${session}/pictures/${index}`, rgb);
}

byId("file").addEventListener("change", ({ target }) => {
  take([...target.files], own.size);
  target.value = "";
});
// A picture that misses the tiles must not replace the page.
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => event.preventDefault());

// --- how many are outstanding -----------------------------------------------------------------

async function keep() {
  const wanted = running ? Number(byId("outstanding").value) : 0;
  if (session == null) return;
  try {
    await call("PUT", `/v1/flowers/${session}`, { outstanding: wanted });
  } catch (error) {
    complain(error);
  }
}

function showRunning() {
  text(byId("run"), running ? "Stop" : "Start");
  attribute(byId("run"), "aria-pressed", String(running));
}

byId("run").addEventListener("click", () => {
  running = !running;
  showRunning();
  keep();
});
byId("outstanding").addEventListener("input", ({ target }) => {
  text(byId("outstanding-now"), target.value);
  if (running) keep();
});
byId("budget").addEventListener("input", draw);

// --- what is seen -----------------------------------------------------------------------------

function hue(name) {
  const index = [...slices.keys()].indexOf(name);
  return index < 0 ? "var(--off)" : colour(index);
}

function budget() {
  const value = Number(byId("budget").value);
  return value > 0 ? value : null;
}

function reported(report) {
  for (const [index, answer] of Object.entries(report.answers)) answered(Number(index), answer);
  history.times.push(Date.now());
  history.p50.push(report.p50);
  history.p90.push(report.p90);
  history.rates.push(report.slices);
  if (history.times.length > HISTORY) Object.values(history).forEach((row) => row.shift());
  text(byId("now-rate"), brief(report.rate));
  text(byId("now-p50"), brief(report.p50));
  text(byId("now-p90"), brief(report.p90));
  text(byId("now-answered"), number(report.answered));
  text(byId("now-failed"), number(report.failed));
  if (report.error) complain(new Error(`A request failed: ${report.error}`));
  judge(report);
  for (const button of byId("chips").children) text(button.lastChild, report.slices[button.dataset.slice] ? `${number(report.slices[button.dataset.slice])}/s` : "");
  draw();
}

function judge(report) {
  const verdict = byId("verdict");
  const limit = budget();
  const kept = report.p90 == null || limit == null ? "" : String(report.p90 <= limit);
  attribute(verdict, "data-kept", kept);
  text(verdict.firstChild, kept === "" ? "idle" : kept === "true" ? "within budget" : "over budget");
  const serving = [...slices.values()].filter((s) => s.state === "ready").length;
  text(verdict.lastChild, kept === "" ? `${serving} of ${slices.size} slices can serve` : `p90 ${brief(report.p90)} of ${number(limit)} ms, ${report.outstanding} outstanding, ${serving} slices`);
}

function draw() {
  const names = [...slices.keys()];
  if (history.rates.some((row) => "" in row)) names.push("");
  charts.rate.show(history.times, names.map((name) => ({
    name: name || "unnamed", colour: hue(name), values: history.rates.map((row) => row[name] ?? 0),
  })));
  const style = getComputedStyle(document.documentElement);
  charts.latency.budget = budget();
  charts.latency.show(history.times, [
    { name: "p50", colour: style.getPropertyValue("--accent"), values: history.p50 },
    { name: "p90", colour: style.getPropertyValue("--bad"), values: history.p90 },
  ]);
}

function drawChips() {
  byId("simulated").hidden = ![...slices.values()].some((s) => s.simulated);
  const chips = byId("chips");
  if (chips.childElementCount !== slices.size || [...chips.children].some((c, i) => c.dataset.slice !== [...slices.keys()][i])) {
    chips.replaceChildren(...[...slices.keys()].map((name) => {
      const chip = element("button", { type: "button", "data-slice": name, onclick: () => toggle(name) }, element("b", {}, name), element("span"), element("i"));
      chip.style.setProperty("--hue", hue(name));
      return chip;
    }));
  }
  [...slices.values()].forEach((slice, i) => {
    const chip = chips.children[i];
    attribute(chip, "data-state", slice.state);
    attribute(chip, "aria-pressed", String(slice.enabled));
    attribute(chip, "title", slice.enabled ? `Switch ${slice.name} off: ${slice.reason}` : `Switch ${slice.name} on: ${slice.reason}`);
    text(chip.children[1], slice.state);
    chip.disabled = !canWrite.live;
  });
}

async function toggle(name) {
  try {
    const slice = await give(name, slices.get(name).enabled ? "disable" : "enable");
    if (slice) slices.set(name, slice);
    drawChips();
  } catch (error) {
    complain(error);
  }
}

// --- the connections --------------------------------------------------------------------------

function lived(event, data) {
  if (event === "snapshot") {
    slices = new Map(data.slices.map((slice) => [slice.name, slice]));
    canWrite.live = data.you.may_write;
    byId("all").hidden = false;
  } else if (event === "tick") {
    for (const [name, changed] of Object.entries(data.slices)) slices.set(name, { ...slices.get(name), ...changed });
    if (data.order) slices = new Map(data.order.map((name) => [name, slices.get(name)]));
  }
  drawChips();
}

async function said(event, data) {
  if (event === "hello") {
    session = data.session;
    side = data.side;
    if (running) keep();
    for (const [index, rgb] of own) await call("PUT", `/v1/flowers/${session}/pictures/${index}`, rgb);
  } else if (data.event === "report") reported(data);
  else if (data.event === "answer") told(data);
}

await build();
showRunning();
const resumes = [
  keepFollowing("/v1/live", lived, (state, why) => {
    if (state === "login") byId("all").hidden = true;
    showLink(state, why);
  }),
  keepFollowing("/v1/flowers", said, (state, why) => {
    if (state !== "live") session = null;
    if (state === "away" || state === "refused") complain(new Error(`The flower client: ${why}`));
  }, { method: "POST" }),
];
onToken(() => resumes.forEach((resume) => resume()));
