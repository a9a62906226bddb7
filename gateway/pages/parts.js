// Small things that both pages use: elements, numbers, colours. Text goes in as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export function text(node, value) {
  const wanted = String(value);
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function attribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// 7 slices are told apart at a glance, also by most who do not see all colours; more get hues of
// their own by the golden angle.
const COLOURS = ["#4c8dff", "#f28e2b", "#2ca58d", "#e15779", "#a67be6", "#c9a227", "#17a2c7", "#a98a74"];

export function colour(index) {
  if (index < COLOURS.length) return COLOURS[index];
  return `hsl(${Math.round(index * 137.508) % 360} 60% 55%)`;
}

// Models are not slices: tones of their own.
const TONES = ["#7a8fa6", "#b0793f", "#7d9a4d", "#a06a99", "#4f9a94", "#a3565c"];

export const modelColour = (index) => TONES[index % TONES.length];

export function number(value, digits = 0) {
  if (value == null) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// Milliseconds and rates as people read them: three digits, no more.
export function brief(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  return number(value, size >= 100 || value === 0 ? 0 : size >= 10 ? 1 : 2);
}

// A mean of numbers of requests.
export const count = (value) => number(value, value == null || Number.isInteger(value) ? 0 : 1);

export function bytes(value) {
  return value >= 2 ** 30 ? `${number(value / 2 ** 30, 2)} GiB` : `${number(value / 2 ** 20, 1)} MiB`;
}

export function duration(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const clock = (moment) => new Date(moment).toLocaleTimeString("en-GB");
