// Talking to the admin API: the token, calls, and server-sent events over fetch (an EventSource
// cannot send the token).

const KEY = "mig-gateway-token";
const SILENCE_MS = 8000; // the gateway says something each second
const PAUSE_MS = [250, 500, 1000, 2000];

export const token = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers(more = {}) {
  const shown = token.get();
  return shown ? { ...more, Authorization: `Bearer ${shown}` } : more;
}

async function judged(answer) {
  if (answer.ok) return answer;
  let said = `${answer.status} ${answer.statusText}`;
  try {
    said = (await answer.json()).error || said;
  } catch {
    // not the gateway's own words; the status has to do
  }
  throw new Refused(answer.status, said);
}

export async function call(method, path, body) {
  const bytes = body instanceof Uint8Array;
  const options = { method, headers: headers(), cache: "no-store" };
  if (body !== undefined) {
    options.body = bytes ? body : JSON.stringify(body);
    options.headers["Content-Type"] = bytes ? "application/octet-stream" : "application/json";
  }
  return (await judged(await fetch(path, options))).json();
}

// Reads one stream to its end; told(event, data) for each message. Throws when it breaks off.
export async function follow(path, options, told, signal) {
  const answer = await judged(
    await fetch(path, { cache: "no-store", ...options, headers: headers(options.headers), signal }),
  );
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  let silence = 0;
  try {
    for (;;) {
      const quiet = new Promise((_, fail) => {
        silence = setTimeout(() => fail(new Error("the gateway says nothing")), SILENCE_MS);
      });
      const { done, value } = await Promise.race([reader.read(), quiet]);
      clearTimeout(silence);
      if (done) return;
      text += decoder.decode(value, { stream: true });
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        parse(text.slice(0, end), told);
        text = text.slice(end + 2);
      }
    }
  } finally {
    clearTimeout(silence);
    reader.cancel().catch(() => {}); // it may be broken already, which is why we are here
  }
}

function parse(message, told) {
  let event = "message";
  const data = [];
  for (const line of message.split("\n")) {
    if (line.startsWith("event: ")) event = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  if (data.length) told(event, JSON.parse(data.join("\n")));
}

// Follows a stream for ever: when it ends it is asked for again, soon and then less often.
// `state` is told "live", "away" (with why), "login", after which it goes on with resume(), or
// "refused", which is the end: this token may not do that.
export function keepFollowing(path, told, state, options = {}) {
  let resume = () => {};
  (async () => {
    for (let attempt = 0; ; attempt++) {
      const stopped = new AbortController();
      try {
        await follow(path, options, (event, data) => {
          attempt = 0;
          state("live");
          told(event, data);
        }, stopped.signal);
        state("away", "the gateway ended the connection");
      } catch (error) {
        if (error instanceof Refused && error.status === 401) {
          const resumed = new Promise((done) => (resume = done));
          state("login", error.message);
          await resumed;
          attempt = -1;
          continue;
        }
        if (error instanceof Refused && error.status === 403) {
          state("refused", error.message);
          return;
        }
        state("away", error.message);
      } finally {
        stopped.abort();
      }
      await new Promise((done) => setTimeout(done, PAUSE_MS[Math.min(attempt, PAUSE_MS.length - 1)]));
    }
  })();
  return () => resume();
}
