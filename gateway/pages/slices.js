// The GPUs as their memory slices with the MIG slices in them, and the table below.

import { attribute, brief, colour, element, number, text } from "./parts.js";

const ORDERS = [["enable", "On", "enabled"], ["drain", "Drain", "drained"], ["disable", "Off", "disabled"]];
const TOLD = {
  enable: "Take work again",
  drain: "No new work; what is in flight finishes; checks go on",
  disable: "No new work; then out of service: no connections, no checks",
};

const MODEL = {
  ready: ["✓", "is ready here"],
  away: ["✗", "is not ready here"],
  unknown: ["–", "is not asked for while the slice is off"],
};

export class SliceView {
  // ordered(name, verb) is called when a button is pressed.
  constructor(root, tbody, ordered) {
    this.root = root;
    this.tbody = tbody;
    this.ordered = ordered;
    this.shape = "";
    this.tiles = new Map();
    this.rows = new Map();
  }

  show(slices, sample, mayWrite) {
    const shape = JSON.stringify(slices.map((s) => [s.name, s.place]));
    if (shape !== this.shape) this.build(slices, shape);
    const models = [...new Set(slices.flatMap((s) => s.models.map((m) => m.name)))].sort();
    const most = Math.max(1, ...slices.map((s) => s.in_flight));
    slices.forEach((slice, i) => {
      this.tiles.get(slice.name).show(slice, sample?.slices[slice.name], models, most, mayWrite);
      showRow(this.rows.get(slice.name), slice, i);
    });
  }

  build(slices, shape) {
    this.shape = shape;
    this.tiles.clear();
    this.rows.clear();
    const gpus = new Map();
    slices.forEach((slice, i) => {
      this.tiles.set(slice.name, new Tile(slice, colour(i), this.ordered));
      this.rows.set(slice.name, element("tr", {}, ...Array.from({ length: 13 }, (_, at) => element("td", { class: at > 4 && at < 11 ? "n" : "" }))));
      const gpu = slice.place?.gpu ?? "";
      gpus.set(gpu, [...(gpus.get(gpu) ?? []), slice]);
    });
    this.root.replaceChildren(...[...gpus.values()].map((members) => this.board(members)));
    this.tbody.replaceChildren(...this.rows.values());
  }

  board(members) {
    const place = members[0].place;
    if (!place) {
      return element("article", { class: "gpu loose" },
        element("header", {}, element("h2", {}, "Servers"), element("span", {}, "of which no launcher has said on which GPU they are")),
        element("div", { class: "slots" }, ...members.map((s) => this.tiles.get(s.name).root)));
    }
    const slots = [];
    const widths = [];
    for (let at = 0; at < place.slots; ) {
      const here = members.find((s) => s.place.start === at);
      const size = here?.place.size ?? 1;
      const cell = here ? this.tiles.get(here.name).root : element("div", { class: "free", title: `memory slice ${at} is nobody's` });
      cell.style.gridColumn = `${at + 1} / span ${size}`;
      cell.style.gridRow = "2";
      slots.push(cell);
      for (let i = at; i < at + size; i++) {
        const mark = element("span", { class: "mark", "aria-hidden": true }, String(i));
        mark.style.gridColumn = String(i + 1);
        slots.push(mark);
        widths.push(here ? "minmax(0, 1fr)" : "1.6rem");
      }
      at += size;
    }
    const grid = element("div", { class: "slots placed" }, ...slots);
    grid.style.setProperty("--columns", widths.join(" "));
    const simulated = members.some((s) => s.simulated);
    return element("article", { class: "gpu" },
      element("header", {},
        element("h2", {}, place.gpu_name.replace(/ \(simulated\)$/, "") || "GPU"),
        ...(simulated ? [element("span", { class: "stamp" }, "simulated")] : []),
        element("code", {}, place.gpu),
        element("span", { class: "note" }, `${members.length} slices on ${place.slots} memory slices`)),
      grid);
  }
}

class Tile {
  constructor(slice, hue, ordered) {
    this.parts = {};
    const part = (name, tag, attributes = {}, ...children) => (this.parts[name] = element(tag, attributes, ...children));
    const fact = (name, words) => element("div", {}, element("dt", {}, words), part(name, "dd"));
    this.buttons = ORDERS.map(([verb, words]) =>
      element("button", { type: "button", title: TOLD[verb], onclick: () => ordered(slice.name, verb) }, words));
    this.root = element("article", { class: "slice", "aria-label": `slice ${slice.name}`, "data-slice": slice.name },
      element("header", {}, element("h3", {}, slice.name), part("state", "span", { class: "state" })),
      part("what", "p", { class: "what" }),
      part("uuid", "code", { class: "uuid" }),
      element("div", { class: "load", "aria-hidden": true }, part("bar", "i")),
      element("dl", {}, fact("inFlight", "in flight"), fact("rate", "answers/s"), fact("p50", "p50 ms"),
        fact("p99", "p99 ms"), fact("served", "served"), fact("failures", "failed")),
      part("models", "ul", { class: "models", "aria-label": "models" }),
      part("reason", "p", { class: "reason" }),
      element("div", { class: "orders", role: "group", "aria-label": `what slice ${slice.name} is to do` }, ...this.buttons));
    this.root.style.setProperty("--hue", hue);
  }

  show(slice, curve, models, most, mayWrite) {
    const p = this.parts;
    attribute(this.root, "data-state", slice.state);
    text(p.state, slice.state);
    text(p.what, [slice.profile, slice.place && `at ${slice.place.start}:${slice.place.size}`, slice.weight !== 1 && `weight ${slice.weight}`].filter(Boolean).join(", ") || slice.http);
    text(p.uuid, slice.mig_uuid ? `${slice.mig_uuid.slice(0, 12)}…` : "");
    attribute(p.uuid, "title", slice.mig_uuid);
    p.bar.style.width = `${(100 * slice.in_flight) / most}%`;
    text(p.inFlight, number(slice.in_flight));
    text(p.rate, brief(curve?.rate));
    text(p.p50, brief(curve?.p50));
    text(p.p99, brief(curve?.p99));
    text(p.served, number(slice.requests));
    text(p.failures, number(slice.failures));
    p.failures.parentElement.classList.toggle("bad", slice.failures > 0);
    this.models(slice, models);
    const told = slice.slow_start < 1 && slice.state === "ready" ? `comes back: ${Math.round(100 * slice.slow_start)} % of its share` : slice.state === "ready" ? partly(slice) : slice.reason;
    text(p.reason, told);
    attribute(p.reason, "title", told);
    this.buttons.forEach((button, i) => {
      attribute(button, "aria-pressed", String(slice.order === ORDERS[i][2]));
      button.disabled = !mayWrite;
    });
  }

  models(slice, models) {
    const there = new Set(slice.models.map((m) => m.name));
    // What a slice had when it was last well, says nothing while it is not, or is not asked.
    const known = slice.order === "disabled" ? "unknown" : slice.healthy ? "ready" : "away";
    const told = models.map((name) => [name, there.has(name) ? known : "away"]);
    const key = told.join();
    if (key === this.modelsKey) return;
    this.modelsKey = key;
    this.parts.models.replaceChildren(...told.map(([name, how]) => {
      const [mark, words] = MODEL[how];
      return element("li", { "data-ready": String(how === "ready"), title: `${name} ${words}` }, `${mark} ${name}`);
    }));
  }
}

function partly(slice) {
  return slice.ejections.map((e) => `${e.model} is set aside: ${e.reason}`).join("; ");
}

function showRow(row, slice, index) {
  const [name, state, profile, place, uuid, weight, http, grpc, failures, p50, p99, check, why] = row.children;
  text(name, slice.name);
  row.style.setProperty("--hue", colour(index));
  attribute(row, "data-state", slice.state);
  text(state, slice.state);
  text(profile, slice.profile || "–");
  text(place, slice.place ? `${slice.place.start}:${slice.place.size}` : "–");
  text(uuid, slice.mig_uuid || "–");
  text(weight, slice.weight);
  text(http, number(slice.http_requests));
  text(grpc, number(slice.grpc_requests));
  text(failures, number(slice.failures));
  text(p50, brief(slice.latency_ms.all.p50));
  text(p99, brief(slice.latency_ms.all.p99));
  const last = slice.last_check;
  text(check, last ? `${last.passed ? "passed" : "failed"} ${number(last.ago_s, 1)} s ago, ${brief(last.took_ms)} ms` : "–");
  text(why, slice.reason);
}
