// Requests to the program. Every error is an Error whose message is plain words.

async function refusal(answer) {
  const text = await answer.text();
  let words = text.trim();
  try { words = JSON.parse(text).error; } catch { /* plain text it is */ }
  return new Error(words || `The program answered ${answer.status}.`);
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The program does not answer. Is it still running? Nothing that was drawn is lost.");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

export const get = async (path) => (await ask(path)).json();
export const post = async (path, body = {}) =>
  (await ask(path, { method: "POST", body: body instanceof Blob ? body : JSON.stringify(body) })).json();
export const stop = (job) => ask(`/api/jobs/${job}/stop`, { method: "POST" });

// Runs a job, or listens to one that goes on already; calls `on` with each event from the first. Returns the kind of the
// last one; throws what went wrong.
export const run = async (session, request, on) =>
  listen(await ask(`/api/sessions/${session}/jobs`, { method: "POST", body: JSON.stringify(request) }), on);
export const join = async (job, on) => listen(await ask(`/api/jobs/${job}`), on);

async function listen(answer, on) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", last = ""; ;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) {
      if (["done", "stopped"].includes(last)) return last;
      throw new Error("The program ended while it was drawing. What was finished before is kept.");
    }
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      last = event.kind;
      if (last === "error") throw new Error(event.words);
      on(event);
    }
  }
}
