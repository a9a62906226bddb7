// What both pages have around them: the connection's state, the log-in, complaints, the question
// before the last slice goes.

import { byId, text } from "./parts.js";
import { Refused, call, token } from "./stream.js";

const WORDS = { live: "live", away: "no connection, trying again", login: "token needed", refused: "not allowed" };

export function showLink(state, why) {
  const link = byId("link");
  link.dataset.link = state;
  text(link, WORDS[state]);
  link.title = why ?? "";
  document.body.dataset.link = state;
  byId("login").hidden = state !== "login";
  if (state === "login") {
    text(byId("login-said"), token.get() ? "This token is not known here." : "");
    byId("token").focus();
  }
}

export function onToken(resume) {
  byId("login").addEventListener("submit", (event) => {
    event.preventDefault();
    token.set(byId("token").value.trim());
    byId("token").value = "";
    resume();
  });
}

let complaint = 0;

export function complain(error) {
  const place = byId("trouble");
  text(place, error.message);
  place.hidden = false;
  clearTimeout(complaint);
  complaint = setTimeout(() => (place.hidden = true), 8000);
}

// Enables, drains or disables a slice; returns how it is then, or null when it was left as it is.
export async function give(name, verb, force = false) {
  try {
    return await call("POST", `/v1/slices/${encodeURIComponent(name)}/${verb}${force ? "?force=true" : ""}`);
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 409 || force) throw error;
    return (await sure(name, verb)) ? give(name, verb, true) : null;
  }
}

function sure(name, verb) {
  const ask = byId("ask");
  text(byId("ask-title"), `${verb === "drain" ? "Drain" : "Switch off"} the last slice?`);
  text(byId("ask-text"), `${name} is the last slice that can serve. Without it every request fails, until you switch one on again.`);
  ask.returnValue = "no";
  ask.showModal();
  return new Promise((done) => ask.addEventListener("close", () => done(ask.returnValue === "yes"), { once: true }));
}
