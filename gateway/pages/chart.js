// Curves over time on a canvas: lines or a stack, a cross-hair shared by all charts of the page.

const GAP_MS = 3500; // samples come each second; a line does not jump over what was not seen
const SPAN_MS = [60_000, 300_000]; // least and most that is shown
const PAD = { left: 44, right: 10, top: 8, bottom: 20 };
const charts = new Set();
let pointed = null; // the moment under the pointer, on whichever chart

export class Chart {
  // `format` makes a value readable; `budget` is a line to stay below, or null.
  constructor(figure, { stacked = false, format, label }) {
    this.stacked = stacked;
    this.format = format;
    this.label = label;
    this.budget = null;
    this.series = [];
    this.times = [];
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.legend = document.createElement("p");
    this.legend.className = "legend";
    figure.append(this.legend, this.canvas);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.canvas.addEventListener("pointermove", (event) => point(this.momentAt(event.offsetX)));
    this.canvas.addEventListener("pointerleave", () => point(null));
    charts.add(this);
  }

  // series: [{name, colour, values, width?}] with one value (or null) for each of `times`, in ms.
  show(times, series) {
    this.times = times;
    this.series = series;
    this.draw();
  }

  get range() {
    const last = this.times.at(-1) ?? Date.now();
    const seen = last - (this.times[0] ?? last);
    return [last - Math.min(Math.max(seen, SPAN_MS[0]), SPAN_MS[1]), last];
  }

  momentAt(x) {
    const [from, to] = this.range;
    const share = (x - PAD.left) / (this.canvas.clientWidth - PAD.left - PAD.right);
    return from + share * (to - from);
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const scale = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.canvas);
    const ink = { faint: style.getPropertyValue("--line"), text: style.getPropertyValue("--soft"), strong: style.getPropertyValue("--text") };
    const [from, to] = this.range;
    const first = Math.max(0, this.times.findIndex((t) => t >= from) - 1);
    const curves = this.curves();
    const top = nice(Math.max(this.budget ?? 0, ...curves.flatMap((c) => c.upper.slice(first).map((v) => v ?? 0))));
    const x = (t) => PAD.left + ((t - from) / (to - from)) * (width - PAD.left - PAD.right);
    const y = (v) => height - PAD.bottom - (v / top) * (height - PAD.top - PAD.bottom);
    this.axes(pen, ink, { x, y, from, to, top, width, height });
    pen.save();
    pen.beginPath();
    pen.rect(PAD.left, 0, width - PAD.left - PAD.right, height - PAD.bottom + 1);
    pen.clip();
    for (const curve of curves) this.curve(pen, curve, first, x, y);
    if (this.budget != null) dashed(pen, ink.strong, PAD.left, y(this.budget), width - PAD.right, y(this.budget));
    const at = this.indexAt(pointed);
    if (pointed != null && at >= 0) dashed(pen, ink.text, x(this.times[at]), PAD.top, x(this.times[at]), height - PAD.bottom);
    pen.restore();
    this.tell(at);
  }

  curves() {
    if (!this.stacked) return this.series.map((s) => ({ ...s, upper: s.values, lower: null }));
    let below = this.times.map(() => 0);
    return this.series.map((s) => {
      const upper = below.map((b, i) => b + (s.values[i] ?? 0));
      const curve = { ...s, upper, lower: below };
      below = upper;
      return curve;
    });
  }

  axes(pen, ink, { x, y, from, to, top, width, height }) {
    pen.font = "11px system-ui, sans-serif";
    pen.lineWidth = 1;
    pen.strokeStyle = ink.faint;
    pen.fillStyle = ink.text;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const share of [0, 0.5, 1]) {
      const at = Math.round(y(top * share)) + 0.5;
      pen.beginPath();
      pen.moveTo(PAD.left, at);
      pen.lineTo(width - PAD.right, at);
      pen.stroke();
      pen.fillText(axis(top * share), PAD.left - 6, at);
    }
    pen.textBaseline = "top";
    const step = to - from > 150_000 ? 60_000 : to - from > 90_000 ? 30_000 : 15_000;
    for (let back = 0; to - back >= from; back += step) {
      pen.textAlign = back === 0 ? "right" : "center";
      pen.fillText(back === 0 ? "now" : ago(back), x(to - back), height - PAD.bottom + 5);
    }
  }

  curve(pen, { colour, upper, lower, values, width = 1.4 }, first, x, y) {
    const path = (row, from, to, step) => {
      for (let i = from; step > 0 ? i <= to : i >= to; i += step) pen.lineTo(x(this.times[i]), y(row[i]));
    };
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = this.stacked ? 1 : width;
    pen.lineJoin = "round";
    for (const [from, to] of runs(this.times, this.stacked ? upper : values, first)) {
      if (lower) {
        pen.globalAlpha = 0.72;
        pen.beginPath();
        path(upper, from, to, 1);
        path(lower, to, from, -1);
        pen.fill();
        pen.globalAlpha = 1;
      }
      pen.beginPath();
      path(upper, from, to, 1);
      pen.stroke();
      if (from === to && !lower) {
        pen.beginPath();
        pen.arc(x(this.times[from]), y(upper[from]), 2, 0, 7);
        pen.fill();
      }
    }
  }

  indexAt(moment) {
    if (!this.times.length) return -1;
    if (moment == null) return this.times.length - 1;
    let best = 0;
    this.times.forEach((t, i) => {
      if (Math.abs(t - moment) < Math.abs(this.times[best] - moment)) best = i;
    });
    return best;
  }

  tell(at) {
    const parts = this.series.map((s) => ({ name: s.name, colour: s.colour, value: at >= 0 ? s.values[at] : null }));
    this.legend.replaceChildren(
      ...parts.map(({ name, colour, value }) => {
        const key = document.createElement("span");
        const swatch = document.createElement("i");
        swatch.style.background = colour;
        const shown = document.createElement("b");
        shown.textContent = this.format(value);
        key.append(swatch, name, " ", shown);
        return key;
      }),
    );
    const when = pointed != null && at >= 0 ? new Date(this.times[at]).toLocaleTimeString("en-GB") : "now";
    this.canvas.setAttribute("aria-label", `${this.label}, ${when}: ${parts.map((p) => `${p.name} ${this.format(p.value)}`).join(", ")}`);
  }
}

function point(moment) {
  pointed = moment;
  for (const chart of charts) chart.draw();
}

// Ranges of indices in which every value is there and no sample is missing between.
function* runs(times, row, first) {
  let start = -1;
  for (let i = first; i <= row.length; i++) {
    const broken = i === row.length || row[i] == null || (start >= 0 && times[i] - times[i - 1] > GAP_MS);
    if (broken && start >= 0) {
      yield [start, i - 1];
      start = -1;
    }
    if (start < 0 && i < row.length && row[i] != null) start = i;
  }
}

function nice(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((n) => n * unit).find((n) => n >= value * 1.02) ?? 15 * unit;
}

function axis(value) {
  if (value >= 10_000) return `${+(value / 1000).toFixed(1)}k`;
  return String(+value.toPrecision(3));
}

function ago(ms) {
  return ms % 60_000 === 0 ? `−${ms / 60_000} min` : `−${ms / 1000} s`;
}

function dashed(pen, colour, x1, y1, x2, y2) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.setLineDash([5, 4]);
  pen.beginPath();
  pen.moveTo(x1, Math.round(y1) + 0.5);
  pen.lineTo(x2, Math.round(y2) + 0.5);
  pen.stroke();
  pen.setLineDash([]);
}
