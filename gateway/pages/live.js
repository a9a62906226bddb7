// The live page: what the gateway streams, drawn.

import { Chart } from "./chart.js";
import { brief, byId, bytes, clock, colour, count, duration, element, modelColour, number, text } from "./parts.js";
import { complain, give, onToken, showLink } from "./shell.js";
import { SliceView } from "./slices.js";
import { call, keepFollowing } from "./stream.js";

const HISTORY = 300;
const EVENTS = 300;

const now = { you: { may_write: false }, gateway: {}, slices: new Map(), history: [], events: 0 };
const view = new SliceView(byId("slices"), byId("table").tBodies[0], order);
const charts = {
  rate: new Chart(byId("chart-rate"), { stacked: true, format: brief, label: "Throughput in answers per second" }),
  p50: new Chart(byId("chart-p50"), { format: brief, label: "Median latency in milliseconds" }),
  p99: new Chart(byId("chart-p99"), { format: brief, label: "99th percentile of latency in milliseconds" }),
  inFlight: new Chart(byId("chart-in-flight"), { stacked: true, format: count, label: "Requests in flight, mean of each second" }),
  waiting: new Chart(byId("chart-waiting"), { stacked: true, format: count, label: "Requests that wait for a slice, mean of each second" }),
  wait: new Chart(byId("chart-wait"), { format: brief, label: "How long those waited that were served then, in milliseconds" }),
};

// --- what comes -------------------------------------------------------------------------------

function told(event, data) {
  if (event === "snapshot") {
    now.you = data.you;
    now.gateway = data.gateway;
    now.slices = new Map(data.slices.map((slice) => [slice.name, slice]));
    // What this page has seen before a restart of the gateway stays on the curves.
    const first = data.history[0]?.t ?? Infinity;
    now.history = [...now.history.filter((s) => s.t < first), ...data.history].slice(-HISTORY);
    byId("events").replaceChildren();
    now.events = 0;
    data.events.forEach(happened);
    byId("all").hidden = false;
  } else if (event === "change") {
    happened(data);
    return; // its tick comes with it
  } else if (event === "tick") {
    Object.assign(now.gateway, data.gateway);
    for (const [name, changed] of Object.entries(data.slices)) {
      now.slices.set(name, { ...now.slices.get(name), ...changed });
    }
    if (data.order) now.slices = new Map(data.order.map((name) => [name, now.slices.get(name)]));
    if (data.sample) now.history = [...now.history, data.sample].slice(-HISTORY);
  }
  draw();
}

function happened(change) {
  const index = [...now.slices.keys()].indexOf(change.name);
  const words = change.from && change.to ? `${change.event}: ${change.from} → ${change.to}` : change.event;
  const entry = element("li", { "data-event": change.event, "data-state": change.state, title: change.reason },
    element("time", { datetime: change.time }, clock(change.time)),
    element("b", {}, change.name || "all slices"),
    element("span", { class: "event" }, words + (change.model ? ` (${change.model})` : "")),
    element("span", { class: "because" }, change.reason));
  entry.style.setProperty("--hue", index < 0 ? "transparent" : colour(index));
  const list = byId("events");
  list.prepend(entry);
  while (list.childElementCount > EVENTS) list.lastElementChild.remove();
  byId("no-events").hidden = true;
}

// --- what is seen -----------------------------------------------------------------------------

function draw() {
  const slices = [...now.slices.values()];
  const sample = now.history.at(-1);
  view.show(slices, sample, now.you.may_write);
  byId("simulated").hidden = !slices.some((s) => s.simulated);
  byId("may-not").hidden = now.you.may_write;
  const { gateway } = now;
  const serving = byId("serving");
  serving.dataset.ready = String(gateway.ready && !gateway.panic && gateway.routable === slices.length);
  serving.dataset.down = String(!gateway.ready);
  text(serving.children[0], gateway.ready ? "serving" : "not serving");
  text(serving.children[1], gateway.panic ? "no slice is well: those that may come back are asked" : gateway.reason);
  text(byId("now-rate"), brief(sample?.all.rate));
  text(byId("now-p50"), brief(sample?.all.p50));
  text(byId("now-p99"), brief(sample?.all.p99));
  text(byId("now-in-flight"), number(slices.reduce((sum, s) => sum + s.in_flight, 0)));
  text(byId("now-waiting"), number(gateway.waiting));
  text(byId("now-failures"), brief(sample?.all.failures));
  drawFlow(gateway, slices);
  drawCharts(slices);
  drawGateway(gateway);
}

const POLICIES = { least_load: "gives each request to the slice with the least load", round_robin: "gives requests to the slices in turn" };

// One line that says what this is.
function drawFlow(gateway, slices) {
  text(byId("flow-clients"), gateway.connections === 1 ? "1 client" : `${number(gateway.connections)} clients`);
  text(byId("flow-at"), gateway.clients.join(", "));
  text(byId("flow-policy"), POLICIES[gateway.policy] ?? gateway.policy);
  const gpus = new Set(slices.map((s) => s.place?.gpu).filter(Boolean)).size;
  const on = gpus === 1 ? " of one GPU" : gpus > 1 ? ` of ${gpus} GPUs` : "";
  text(byId("flow-slices"), `${slices.length} ${slices.length === 1 ? "slice" : "slices"}${on}`);
}

function drawCharts(slices) {
  const times = now.history.map((s) => s.t);
  const each = (key) => slices.map((slice, i) => ({
    name: slice.name, colour: colour(i), values: now.history.map((s) => s.slices[slice.name]?.[key] ?? null),
  }));
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--text");
  const all = (key) => ({ name: "all", colour: ink, width: 2.6, values: now.history.map((s) => s.all[key]) });
  charts.rate.show(times, each("rate"));
  charts.p50.show(times, [...each("p50"), all("p50")]);
  charts.p99.show(times, [...each("p99"), all("p99")]);
  charts.inFlight.show(times, each("busy"));
  const models = [...new Set(now.history.flatMap((s) => Object.keys(s.queue.models)))].sort();
  charts.waiting.show(times, (models.length ? models : [""]).map((model, i) => ({
    name: model || "nobody", colour: modelColour(i), values: now.history.map((s) => s.queue.models[model] ?? 0),
  })));
  charts.wait.show(times, ["p50", "p99"].map((key) => ({
    name: key, colour: style.getPropertyValue(key === "p50" ? "--accent" : "--bad"), values: now.history.map((s) => s.queue[key]),
  })));
}

function drawGateway(gateway) {
  const policy = byId("policy");
  if (policy.options.length !== gateway.known_policies.length) {
    policy.replaceChildren(...gateway.known_policies.map((name) => element("option", { value: name }, name.replace("_", " "))));
  }
  if (document.activeElement !== policy) policy.value = gateway.policy;
  policy.disabled = !now.you.may_write;
  const counted = (counts) => Object.entries(counts).map(([name, n]) => `${name} ${number(n)}`).join(", ") || "none";
  const facts = {
    "clients connect to": gateway.clients.join(", "),
    "HTTP requests": number(gateway.http_requests),
    "gRPC calls": number(gateway.grpc_calls),
    "sent to a second slice": number(gateway.replays),
    "answered with an error": counted(gateway.faults),
    "limits hit": counted(gateway.limits),
    "processes for clients": gateway.worker_restarts ? `${gateway.workers}, replaced ${gateway.worker_restarts} times` : number(gateway.workers),
    "CPU time": `${number(gateway.cpu_seconds, 1)} s`,
    memory: bytes(gateway.resident_memory_bytes),
    "up for": duration(gateway.uptime_seconds),
    version: gateway.version,
    "you are": now.you.name,
  };
  const list = byId("gateway");
  if (list.childElementCount !== Object.keys(facts).length) {
    list.replaceChildren(...Object.keys(facts).map((key) => element("div", {}, element("dt", {}, key), element("dd"))));
  }
  Object.values(facts).forEach((value, i) => text(list.children[i].lastChild, value));
}

// --- what is ordered --------------------------------------------------------------------------

async function order(name, verb) {
  try {
    const slice = await give(name, verb);
    if (slice) now.slices.set(name, slice);
    draw();
  } catch (error) {
    complain(error);
  }
}

byId("policy").addEventListener("change", async ({ target }) => {
  try {
    now.gateway.policy = (await call("PUT", "/v1/balancing", { policy: target.value })).policy;
  } catch (error) {
    target.value = now.gateway.policy;
    complain(error);
  }
});

// --- the connection ---------------------------------------------------------------------------

const resume = keepFollowing("/v1/live", told, (state, why) => {
  showLink(state, why);
  if (state === "login") byId("all").hidden = true;
});
onToken(resume);

setInterval(() => {
  // A curve ages while nothing comes.
  if (document.body.dataset.link === "away") draw();
}, 2000);
