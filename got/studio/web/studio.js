// The page: what is asked for, what is shown, and where one can go from there.
import { get, listen, post, stop } from "./api.js";
import { $, copy, isolated, item, repeat } from "./dom.js";
import { Plan } from "./plan.js";

const FAULTS = { plan_wrong: "The plan itself is wrong.", drawing_wrong: "The plan is right, the image is not.",
  unchecked: "The plan is right, the image is not." };
const BUSY = "An image is being drawn here. Open another one when it is done, or stop it.";
const MOST_LISTED = 60;

const S = {
  about: null, // the program and its checkpoint
  session: { entries: [], current: null, undo: false, redo: false },
  busy: false,
  job: null, // which goes on, once the program has taken it
  request: null, // what it does
  part: "", // which of several images it is at
  planned: null, // a plan that is drawn next, and what as
  made: [], // images of the last request
  before: null, // the image that is compared with
  seen: new Map(), // by image, what the detector found
  explained: null, // the image whose guidances are shown
};
const plan = new Plan(() => refresh());

const current = () => S.session.entries[S.session.current];
const settled = () => (S.planned ? undefined : current()); // no plan waits to be drawn
const mode = () => $("form").elements.mode.value;
const url = (number, rest = ".png") => `/api/sessions/${S.session.name}/${number}${rest}`;
const say = (words) => { $("status").textContent = words; };
const labelOf = (name) => {
  const field = $("settings-form").elements[name];
  return field ? field.ariaLabel || field.labels[0].firstChild.textContent.trim() : name;
};
const describe = ({ kind, instruction }) =>
  (kind === "opened" ? "Opened image" : `${kind === "edited" ? "Edit" : "Image"}: ${instruction}`);

// ---------------------------------------------------------------------------------------------------------- requests
async function guarded(place, work) {
  for (const said of document.querySelectorAll("[role=alert]")) said.textContent = "";
  await work().catch((error) => { $(place).textContent = error.message.replace(/[a-z]+(_[a-z]+)+/g, labelOf); });
}

async function sessionName() {
  if (!S.session.name) {
    S.session = await post("/api/sessions");
    history.replaceState(null, "", `/?session=${S.session.name}`);
  }
  return S.session.name;
}

// Asks for something; or, with a job, goes on listening to what was asked for before the page was loaded again.
async function work(place, request, job) {
  if (S.busy) return;
  const focused = document.activeElement;
  Object.assign(S, { busy: true, request, part: "" });
  refresh();
  await guarded(place, async () => {
    const path = job ? `/api/jobs/${job}` : `/api/sessions/${await sessionName()}/jobs`;
    const ended = await listen(path, request, (event) => EVENTS[event.kind]?.(event));
    say(ended === "stopped" ? "Stopped. What was finished before is kept." : "");
    if (job) S.session = await get(`/api/sessions/${S.session.name}`); // it may have ended before one listened
  });
  if ($(place).textContent) say("");
  Object.assign(S, { busy: false, job: null });
  $("progress").hidden = true;
  $("status").ariaBusy = "false";
  show();
  // What was pressed was disabled meanwhile, or is gone as Stop is.
  const next = focused.disabled || focused.hidden ? $("prompt") : focused;
  if (document.activeElement === document.body) next.focus({ preventScroll: true });
}

const EVENTS = {
  accepted: ({ job, asked }) => {
    Object.assign(S, { job, request: asked });
    $("prompt").value ||= asked.prompt ?? "";
    if (asked.kind === "explain") explain(asked.entry);
    refresh();
  },
  waiting: ({ ahead }) => say(`Waiting: ${ahead} ${ahead === 1 ? "request is" : "requests are"} before yours.`),
  running: () => say("Thinking …"),
  image: ({ number, of }) => {
    if (number === 0) S.made = [];
    S.part = of > 1 ? `Image ${number + 1} of ${of}: ` : "";
  },
  chain: ({ plan: view }) => {
    const { kind, prompt, entry } = S.request, drawn = entry == null ? "draw" : "edit";
    S.planned = { view, request: { kind: kind === "plan" ? drawn : kind, prompt, entry } };
    show();
    if (kind !== "plan") say(`${S.part}The plan is written. Drawing …`);
  },
  step: ({ step, of, url: preview }) => {
    $("progress").hidden = false;
    $("progress").value = step / of;
    $("status").ariaBusy = "true"; // a screen reader need not say every step
    say(`${S.part}Drawing, step ${step} of ${of}.`);
    if (preview) display(preview, "Preview: the image while it is denoised");
  },
  session: ({ session, made }) => {
    const before = S.session.current;
    Object.assign(S, { session, planned: null, made: [...S.made, ...made] });
    S.before = current().source ?? (S.request.kind === "revise" ? before : null);
    show();
    say("");
  },
  condition: (event) => explained("conditions", event),
  variant: (event) => explained("strip", event),
  seen: (event) => { S.seen.set(event.entry, event); if (event.entry === S.session.current) showSeen(); },
};

// What is set, as arguments of the pipeline; what is left empty is the checkpoint's own.
function options() {
  const given = {};
  for (const { name, type, value, checked } of $("settings-form").elements) {
    if (type === "checkbox" && !checked) given[name] = false;
    if (type !== "checkbox" && name && value) given[name] = type === "number" ? Number(value) : value;
  }
  return given;
}

const source = () => (mode() === "edit" ? S.session.current : null);
const fresh = (images) => ({ seed: $("seed").value.trim(), images, options: options() });

function draw() {
  const prompt = $("prompt").value, images = $("images").value === "" ? 1 : $("images").valueAsNumber;
  return work("problem", { kind: mode(), entry: source(), prompt, ...fresh(images) });
}

// What the plan in hand is drawn as: an image that it belongs to again, or a first one.
function asked() {
  const one = current(), prompt = $("prompt").value;
  if (S.planned) return S.planned.request;
  if (!one) return { kind: "draw", prompt };
  return one.kind === "opened" ? { kind: "edit", prompt, entry: one.number } : { kind: "revise", entry: one.number };
}

function revise() {
  const again = asked();
  return work("problem", { ...again, ...(again.kind === "revise" ? {} : fresh(1)), chain: plan.asked });
}

// -------------------------------------------------------------------------------------------------------------- views
function display(source, words = "") {
  $("shown").hidden = !source;
  if (source) $("shown").src = source;
  $("shown").alt = words;
}

// What is on the canvas below the plan: nothing while it is drawn, the source of an edit that is planned only.
function onCanvas() {
  if (!S.planned) return current();
  if (S.busy && S.request.kind !== "plan") return undefined;
  return S.planned.request.kind === "revise" ? current() : S.session.entries[S.planned.request.entry];
}

function show() {
  const one = onCanvas(), { entries } = S.session, request = S.busy ? null : S.planned?.request;
  plan.show(S.planned?.view ?? one?.plan, S.busy);
  display(one && url(one.number), one && describe(one));
  if (request && request.kind !== "revise") {
    $("caption").replaceChildren(...isolated(`Planned, not drawn yet: ${request.prompt}`));
  } else {
    const words = one ? `#${one.number} ${describe(one)}${one.seed ? `, seed ${one.seed}` : ""}` : "";
    $("caption").replaceChildren(...isolated(words));
    for (const note of one?.warnings ?? []) $("caption").appendChild(item("p")).append(...isolated(`Note: ${note}.`));
  }
  const others = entries.filter((other) => other !== one);
  const named = others.map(({ number, instruction }) => new Option(`#${number} ${instruction || "opened"}`, number));
  $("before").replaceChildren(new Option("nothing", ""), ...named);
  compare(others.includes(entries[S.before]) ? S.before : null);
  if (S.explained !== one?.number) explain(null);
  showSeen();
  showHistory();
  showKeep();
  refresh();
}

// Beside or below the image, another one; what of it is visible the style sheet knows.
function compare(number) {
  const one = settled(), other = one && S.session.entries[number];
  S.before = number;
  $("before").value = number ?? "";
  $("stage").classList.toggle("compared", Boolean(other));
  $("stage").classList.toggle("edited", one?.source != null);
  if (other) {
    $("under").src = $("left").firstElementChild.src = url(number);
    $("left").firstElementChild.alt = `Before: ${describe(other)}`;
  }
  if (one?.source != null) $("changed").style.maskImage = `url("${url(one.number, "/changed.png")}")`;
}

function showSeen() {
  const seen = S.seen.get(settled()?.number), verdict = seen?.verdict;
  plan.showSeen(seen);
  $("show-seen-label").hidden = !seen;
  $("show-seen-label").lastChild.textContent = ` Detections (${seen?.objects.length ?? 0})`;
  $("verdict").hidden = !verdict;
  if (!verdict) return;
  const { correct, task, reason, fault } = verdict, ruling = correct ? "right" : "wrong";
  const title = item("strong", `GenEval ${verdict.case} (${task.replace("_", " ")}): ${ruling}. `), list = item("ul");
  list.append(...reason.split("\n").map((line) => item("li", line)));
  $("verdict").className = ruling;
  $("verdict").replaceChildren(title, correct ? "" : FAULTS[fault] ?? "", reason ? list : "");
}

// Shows what guidances do to another image; nothing of the one before.
function explain(number) {
  S.explained = number;
  for (const id of ["strip", "conditions"]) $(id).replaceChildren();
}

function explained(place, { title, url: source }) {
  const figure = $(place).appendChild(copy("new-figure")), [image, words] = figure.children;
  Object.assign(image, { src: source, alt: title });
  words.textContent = title;
  say(`Drawn: ${title}.`);
}

function fillThumb(button, { number, instruction, kind }) {
  const [image, words] = button.children;
  image.src = url(number);
  words.textContent = `#${number} ${(instruction || "opened").replace(/^a photo of (an? )?/, "")}`;
  button.title = button.ariaLabel = `#${number} ${describe({ instruction, kind })}`;
  button.ariaCurrent = String(number === S.session.current);
  button.onclick = () => go(number);
}

// Edits stand right of what they edit; a second edit of the same image begins a row below.
function showHistory() {
  const { entries } = S.session;
  repeat($("made"), "new-thumb", S.made.length > 1 ? S.made.map((number) => entries[number]) : [], fillThumb);
  $("tree").replaceChildren(...entries.filter((one) => one.source == null).map((root) => {
    const branch = item("div", "", "branch");
    let rows = 1;
    const grow = (one, column, row) => {
      const button = branch.appendChild(copy("new-thumb"));
      button.style.gridArea = `${row} / ${column}`;
      fillThumb(button, one);
      const edits = entries.filter((edit) => edit.source === one.number);
      edits.forEach((edit, i) => grow(edit, column + 1, i ? (rows += 1) : row));
    };
    grow(root, 1, 1);
    return branch;
  }));
}

function showKeep() {
  const one = settled();
  $("keep").hidden = !one;
  if (!one) return;
  $("get-image").href = url(one.number);
  $("get-chain").href = `data:text/plain;charset=utf-8,${encodeURIComponent(`${one.plan.text}\n`)}`;
  $("get-image").download = `${S.session.name}-${one.number}.png`;
  $("get-chain").download = `${S.session.name}-${one.number}.txt`;
  $("get-chain").hidden = !one.plan.text;
  for (const [name, words] of Object.entries({ command: one.command, python: one.python, chat: S.session.chat })) {
    $(name).replaceChildren(...isolated(words));
    $(name).parentElement.hidden = !words;
  }
}

// What can be pressed, and what is said where nothing is typed.
function refresh() {
  if (!S.about) return;
  const one = current(), drawn = one && one.kind !== "opened";
  const impossible = {
    draw: false,
    think: false,
    explain: !drawn || S.planned,
    revise: !(S.planned || drawn || plan.view.regions.length),
    undo: !(plan.past.length || S.planned || S.session.undo),
    redo: !(plan.future.length || S.session.redo),
  };
  for (const [id, is] of Object.entries(impossible)) $(id).disabled = S.busy || Boolean(is);
  $("form").elements.mode[1].disabled = !one;
  if (!one) $("form").elements.mode.value = "draw";
  $("stop").hidden = !S.job;
  $("draw").textContent = mode() === "edit" ? "Edit" : "Draw";
  $("prompt").placeholder = mode() === "edit" ? "make the dog green …" : "a photo of …";
  $("revise").textContent = asked().kind === "revise" ? "Redraw this plan" : "Draw this plan";
  $("before-label").hidden = !settled() || S.session.entries.length < 2;
  $("stage").classList.toggle("drawing", S.busy);
  for (const name of ["semantic", "spatial", "reference"]) $(`${name}_scale`).placeholder = S.about.scales[mode()][name];
}

// ------------------------------------------------------------------------------------------------------------- moving
// Shows the image where a session is now, and asks what the detector says of one that was drawn before.
function arrive(session) {
  const one = session.entries[session.current];
  if (session.name !== S.session.name) S.seen.clear();
  Object.assign(S, { session, planned: null, before: one?.source ?? null });
  show();
  if (!one || one.kind === "opened" || !S.about.observer || S.seen.has(one.number)) return;
  const seen = (event) => event.kind === "seen" && EVENTS.seen(event);
  listen(`/api/sessions/${session.name}/jobs`, { kind: "observe", entry: one.number }, seen).catch(() => {});
}

async function go(to) {
  if (S.busy) return;
  await guarded("problem", async () => arrive(await post(`/api/sessions/${S.session.name}/go/${to}`)));
}

function undo() {
  if (plan.undo()) return;
  if (S.planned) { S.planned = null; show(); } else if (S.session.undo) go("undo");
}

function redo() {
  if (!plan.redo() && S.session.redo) go("redo");
}

async function openFile(file) {
  if (!file) return;
  await guarded("upload-problem", async () => {
    if (S.busy) throw new Error(BUSY);
    const most = S.about.upload_mb, size = file.size / 1e6;
    if (size > most) throw new Error(`Expected a file of at most ${most} MB but ${file.name} has ${size.toFixed(0)} MB.`);
    S.made = [];
    arrive(await post(`/api/sessions/${await sessionName()}/open`, file));
    $("form").elements.mode.value = "edit";
    refresh();
    $("prompt").select();
  });
  $("upload").value = "";
}

async function openSample(key) {
  await guarded("problem", async () => {
    if (S.busy) throw new Error(BUSY);
    S.made = [];
    arrive(await post(`/api/samples/${encodeURIComponent(key)}`)); // which an address of anybody's may name
    history.replaceState(null, "", `/?session=${S.session.name}`);
    $("prompt").value = current().instruction;
    $("stage").scrollIntoView();
  });
}

// --------------------------------------------------------------------------------------------------------------- lists
function listSamples() {
  const outcome = $("by-outcome").value, words = $("by-words").value.toLowerCase().split(/\s+/);
  const { samples } = S.about, fit = samples.filter((one) => {
    const text = `${one.key} ${one.task} ${one.prompt} ${one.reason}`.toLowerCase();
    return (!outcome || one.outcome === outcome) && words.every((word) => text.includes(word));
  });
  const more = fit.length > MOST_LISTED ? `, the first ${MOST_LISTED} shown` : "";
  $("run-count").textContent = `${fit.length} of ${samples.length}${more}`;
  repeat($("samples"), "new-sample", fit.slice(0, MOST_LISTED), (row, one) => {
    const button = row.firstElementChild, [prompt, said] = button.children;
    row.className = one.outcome;
    prompt.textContent = one.prompt;
    said.textContent = `${one.key} ${one.task}: ${one.outcome}${one.reason ? `, ${one.reason}` : ""}`;
    button.onclick = () => openSample(one.key);
  });
}

async function listSessions() {
  await guarded("problem", async () => {
    repeat($("sessions-list"), "new-session", await get("/api/sessions"), (row, { name, title, entries }) => {
      const link = row.firstElementChild, [words, said] = link.children;
      link.href = `/?session=${name}`;
      words.textContent = title || "(no request yet)";
      said.textContent = `${name}, ${entries} ${entries === 1 ? "image" : "images"}`;
    });
    $("sessions").showModal();
  });
}

// --------------------------------------------------------------------------------------------------------------- start
function build() {
  const { about } = S, world = ", the icon world: 80 kinds of objects in 10 colours, not photographs";
  $("about").textContent = `${about.checkpoint}${about.icons ? world : ""}`;
  const samplers = about.samplers.map((name) => new Option(name));
  $("scheduler").append(new Option(`${about.sampler} (default)`, ""), ...samplers);
  for (const [name, usual] of Object.entries(about.usual)) $(name).placeholder = usual;
  for (const side of [$("width"), $("height")]) side.step = side.min = about.factor;
  $("seed").defaultValue = about.seed;
  $("images").max = about.most_images;
  $("sessions-root").textContent = `Folders in ${about.root}`;
  $("run").hidden = !about.run;
  $("run-title").textContent = `Samples of ${about.run}`;
  listSamples();
}

const PRESSED = {
  draw, revise, undo, redo,
  think: () => work("problem", { kind: "plan", prompt: $("prompt").value, entry: source() }),
  stop: () => { say("Stopping …"); stop(S.job).catch(() => {}); },
  explain: () => work("understand-problem", { kind: "explain", entry: S.session.current }),
  "sessions-open": listSessions,
};

function keys(event) {
  const { target } = event, key = event.key.toLowerCase();
  const enter = key === "enter" && !event.shiftKey && !event.isComposing;
  if (!event.ctrlKey && !event.metaKey) {
    if (!enter || !target.matches("form :is(#prompt, input)")) return;
    event.preventDefault();
    draw();
  } else if (enter && !$("revise").disabled) {
    event.preventDefault();
    revise();
  }
  // In a field that somebody types in, undo is the browser's; a name that is as it was has nothing to undo.
  const untouched = target.closest("#regions") && target.value === target.defaultValue;
  const typing = target.matches("input:not([type=checkbox], [type=range]), #prompt") && !untouched;
  if (typing || S.busy || event.altKey || !["z", "y"].includes(key)) return;
  event.preventDefault();
  (key === "y" || event.shiftKey ? redo : undo)();
}

function listenToFiles() {
  const dropping = (is) => document.body.classList.toggle("dropping", is);
  $("upload").addEventListener("change", () => openFile($("upload").files[0]));
  addEventListener("paste", ({ clipboardData }) => {
    openFile([...(clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/")));
  });
  for (const kind of ["dragover", "drop"]) {
    addEventListener(kind, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      dropping(kind === "dragover");
      if (kind === "drop") openFile(event.dataTransfer.files[0]);
    });
  }
  addEventListener("dragleave", () => dropping(false));
}

function listenToPage() {
  for (const [id, press] of Object.entries(PRESSED)) $(id).addEventListener("click", press);
  addEventListener("keydown", keys);
  $("form").addEventListener("change", refresh);
  $("before").addEventListener("change", ({ target }) => compare(target.value === "" ? null : Number(target.value)));
  $("slide").addEventListener("input", ({ target }) => $("canvas").style.setProperty("--slide", `${target.value}%`));
  $("by-outcome").addEventListener("change", listSamples);
  $("by-words").addEventListener("input", listSamples);
  $("examples").addEventListener("click", ({ target }) => {
    if (target.type !== "button") return;
    $("prompt").value = target.textContent;
    draw();
  });
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => {
      getSelection().selectAllChildren($(button.dataset.copy));
      document.execCommand("copy"); // navigator.clipboard is not there beyond this machine, without encryption
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
}

async function start() {
  S.about = await get("/api/about");
  build();
  listenToPage();
  listenToFiles();
  refresh();
  const wanted = new URLSearchParams(location.search), name = wanted.get("session");
  if (wanted.has("sample")) await openSample(wanted.get("sample"));
  if (!name) return;
  arrive(await get(`/api/sessions/${encodeURIComponent(name)}`));
  if (S.session.job) work("problem", undefined, S.session.job);
}

await guarded("problem", start);
document.body.dataset.ready = "yes";
