// Requests to the program. Every error is an Error whose message is plain words.
async function ask(path, body) {
  const content = body instanceof Blob ? body : JSON.stringify(body);
  const answer = await fetch(path, body === undefined ? {} : { method: "POST", body: content }).catch(() => {
    throw new Error("The program does not answer. Is it still running? Nothing that was drawn is lost.");
  });
  if (!answer.ok) throw new Error((await answer.text()) || `The program answered ${answer.status}.`);
  return answer;
}

export const get = async (path) => (await ask(path)).json();
export const post = async (path, body = {}) => (await ask(path, body)).json();
export const stop = (job) => ask(`/api/jobs/${job}/stop`, {});

// Begins a job (with a body), or follows one that goes on already; calls `on` with each event from the first. Returns
// the kind of the last one; throws what went wrong.
export async function listen(path, body, on) {
  const reader = (await ask(path, body)).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", last = ""; ;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done && ["done", "stopped"].includes(last)) return last;
    if (done) throw new Error("The program ended while it was drawing. What was finished before is kept.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const event of lines.map(JSON.parse)) {
      last = event.kind;
      if (last === "error") throw new Error(event.words);
      on(event);
    }
  }
}
