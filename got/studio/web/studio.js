// The page: what is asked for, what is shown, and where one can go from there.
import { get, join, post, run, stop } from "./api.js";
import { Plan, item, make } from "./plan.js";

const $ = (id) => document.getElementById(id);
const GUIDANCES = { semantic: "the plan's meaning", spatial: "the plan's boxes", reference: "the source image" };
const SETTINGS = ["num_inference_steps", "width", "height"];
const FAULTS = { plan_wrong: "The plan itself is wrong.", drawing_wrong: "The plan is right, the image is not.",
  unchecked: "The plan is right, the image is not.", no_plan: "" };
const S = { about: null, session: null, job: null, busy: false, before: null, seen: new Map(), planned: null, samples: [] };
const plan = new Plan(() => refresh());

const entries = () => S.session?.entries ?? [];
const current = () => (S.session?.current == null ? null : entries()[S.session.current]);
const settled = () => (S.planned ? null : current()); // no plan waits to be drawn
const mode = () => document.querySelector("[name=mode]:checked").value;
const url = (number, rest = ".png") => `/api/sessions/${S.session.name}/${number}${rest}`;
const say = (words) => { $("status").textContent = words; };

// ---------------------------------------------------------------------------------------------------------- requests
async function guarded(place, work) {
  for (const said of document.querySelectorAll("[role=alert]")) said.textContent = "";
  try {
    return await work();
  } catch (error) {
    $(place).textContent = error.message;
    return null;
  }
}

async function ensureSession() {
  if (S.session) return S.session.name;
  const { name } = await post("/api/sessions");
  S.session = { name, entries: [], current: null, undo: false, redo: false };
  history.replaceState(null, "", `/?session=${encodeURIComponent(name)}`);
  return name;
}

// Asks for something; or, with a job, goes on listening to what was asked for before the page was loaded again.
async function work(place, request, job) {
  if (S.busy) return;
  const focused = document.activeElement;
  S.busy = true;
  S.request = request;
  refresh();
  await guarded(place, async () => {
    const on = (event) => EVENTS[event.kind]?.(event);
    const ended = await (job ? join(job, on) : run(await ensureSession(), request, on));
    say(ended === "stopped" ? "Stopped. What was finished before is kept." : "");
    if (job) S.session = await get(`/api/sessions/${S.session.name}`); // it may have ended before one listened
  });
  if ($(place).textContent) say("");
  S.busy = false;
  S.job = null;
  S.image = null;
  $("progress").hidden = true;
  $("status").ariaBusy = "false";
  if (S.session) show();
  // What was pressed was disabled meanwhile, or is gone as Stop is.
  if (document.activeElement === document.body) (focused.disabled || focused.hidden ? $("prompt") : focused).focus({ preventScroll: true });
}

const part = () => (S.image?.of > 1 ? `Image ${S.image.number + 1} of ${S.image.of}: ` : "");
const EVENTS = {
  accepted: ({ job, asked }) => {
    S.job = job;
    S.request = asked;
    $("prompt").value ||= asked.prompt ?? "";
    if (asked.kind === "explain") {
      S.explained = asked.entry;
      for (const id of ["strip", "conditions"]) $(id).replaceChildren();
    }
    refresh();
  },
  waiting: ({ ahead }) => say(`Waiting: ${ahead} ${ahead === 1 ? "request is" : "requests are"} before yours.`),
  running: () => say("Thinking …"),
  image: (event) => { S.image = event; if (event.number === 0) showMade([]); },
  chain: (event) => {
    const { kind, prompt, entry } = S.request;
    S.planned = { view: event.plan, request: { kind: kind === "plan" ? (entry == null ? "draw" : "edit") : kind, prompt, entry } };
    plan.show(event.plan);
    if (kind === "plan") return;
    blank();
    say(`${part()}The plan is written. Drawing …`);
  },
  step: (event) => { progress(event); if (event.url) display(event.url, "Preview: the image while it is denoised"); },
  session: ({ session, made }) => {
    const before = S.session.current;
    S.session = session;
    S.planned = null;
    const one = current();
    S.before = one.source ?? (S.request.kind === "revise" ? before : null);
    showMade(made.length > 1 || S.image?.of > 1 ? [...(S.made ?? []), ...made] : []);
    show();
    say("");
  },
  condition: (event) => explained("conditions", event),
  variant: (event) => explained("strip", event),
  seen: (event) => { S.seen.set(event.entry, event); if (event.entry === S.session.current) showSeen(); },
};

function progress({ step, of }) {
  $("progress").hidden = false;
  $("progress").value = step / of;
  $("status").ariaBusy = "true"; // a screen reader need not say every step
  say(`${part()}Drawing, step ${step} of ${of}.`);
}

function options() {
  const given = {};
  for (const name of SETTINGS) if ($(name).value !== "") given[name] = Number($(name).value);
  if ($("scheduler").value) given.scheduler = $("scheduler").value;
  for (const name of Object.keys(GUIDANCES)) {
    if (!$(name).checked) given[name] = false;
    if ($(`${name}_scale`).value !== "") given[`${name}_scale`] = Number($(`${name}_scale`).value);
  }
  return given;
}

function seeds(count) {
  const text = $("seed").value.trim() || String(S.about.seed);
  return /^\d+$/.test(text) ? Array.from({ length: count }, (_, i) => String(BigInt(text) + BigInt(i))) : [text];
}

function draw() {
  const count = Math.max(1, Math.min(S.about.most_images, Number($("images").value) || 1));
  const edit = mode() === "edit" ? { kind: "edit", entry: S.session.current } : { kind: "draw" };
  return work("problem", { ...edit, prompt: $("prompt").value, seeds: seeds(count), options: options() });
}

// What the plan in hand is drawn as: an image that it belongs to again, or a first one.
function asked() {
  const one = current(), prompt = $("prompt").value;
  if (S.planned) return S.planned.request;
  if (!one) return { kind: "draw", prompt };
  return one.kind === "opened" ? { kind: "edit", prompt, entry: one.number } : { kind: "revise", entry: one.number };
}

function revise() {
  const again = asked(), fresh = again.kind === "revise" ? {} : { seeds: seeds(1), options: options() };
  return work("problem", { ...again, ...fresh, chain: plan.asked });
}

// -------------------------------------------------------------------------------------------------------------- views
function display(source, words) {
  $("shown").hidden = !source;
  if (source) $("shown").src = source;
  $("shown").alt = words;
}

function blank() {
  display(null, "");
  $("verdict").hidden = true;
  $("caption").textContent = "";
  $("seen").replaceChildren();
  compare(null);
}

function show() {
  const unmade = S.planned && S.planned.request.kind !== "revise" ? S.planned.request : null;
  const one = unmade ? entries()[unmade.entry] : current(); // under a plan that nothing was drawn from yet, its source or nothing
  plan.show(S.planned?.view ?? one?.plan);
  if (one) {
    display(url(one.number), describe(one));
    const shown = $("shown");
    shown.onload = () => { if (shown.src.endsWith(url(one.number))) $("canvas").style.aspectRatio = `${shown.naturalWidth} / ${shown.naturalHeight}`; };
  } else {
    display(null, "");
  }
  $("caption").textContent = unmade ? `Planned, not drawn yet: ${unmade.prompt}`
    : one ? `#${one.number} ${describe(one)}${one.seed ? `, seed ${one.seed}` : ""}` : "";
  for (const words of (unmade ? [] : one?.warnings) ?? []) $("caption").append(item("p", `Note: ${words}.`));
  const others = entries().filter((other) => other.number !== one?.number);
  $("before").replaceChildren(new Option("nothing", ""), ...others.map((other) => new Option(`#${other.number} ${other.instruction || "opened"}`, other.number)));
  compare(others.some((other) => other.number === S.before) ? S.before : null);
  showSeen();
  showTree();
  showKeep();
  if (S.explained !== one?.number) for (const id of ["strip", "conditions"]) $(id).replaceChildren();
  refresh();
}

const describe = (one) => (one.kind === "opened" ? "Opened image" : `${one.kind === "edited" ? "Edit" : "Image"}: ${one.instruction}`);

function compare(number) {
  S.before = number;
  const one = settled(), on = number != null && one, beside = on && $("beside").checked;
  $("before").value = number ?? "";
  $("left").hidden = !beside;
  $("under").hidden = $("slide-label").hidden = !on || beside;
  if (on) {
    $("under").src = $("left").firstElementChild.src = url(number);
    $("left").firstElementChild.alt = `Before: ${describe(entries()[number])}`;
  }
  const changed = one?.source != null && $("show-changed").checked;
  $("show-changed-label").hidden = one?.source == null;
  $("changed").hidden = !changed;
  if (changed) $("changed").style.maskImage = `url("${url(one.number, "/changed.png")}")`;
}

function showSeen() {
  const one = settled(), seen = one && S.seen.get(one.number);
  plan.showSeen(seen ?? null);
  $("show-seen-label").hidden = !seen;
  $("show-seen-label").lastChild.textContent = ` Detections (${seen?.objects.length ?? 0})`;
  const verdict = seen?.verdict;
  $("verdict").hidden = !verdict;
  if (!verdict) return;
  $("verdict").className = verdict.correct ? "right" : "wrong";
  const words = `GenEval ${verdict.case} (${verdict.task.replace("_", " ")}): ${verdict.correct ? "right" : "wrong"}. `;
  $("verdict").replaceChildren(item("strong", words), verdict.correct ? "" : FAULTS[verdict.fault] ?? "");
  if (verdict.reason) {
    const list = item("ul");
    list.append(...verdict.reason.split("\n").map((line) => item("li", line)));
    $("verdict").append(list);
  }
}

function explained(place, { title, url: source }) {
  const figure = item("figure");
  figure.append(make("img", { src: source, alt: title }), item("figcaption", title));
  $(place).append(figure);
  say(`Drawn: ${title}.`);
}

function thumb(number) {
  const words = `#${number} ${describe(entries()[number])}`;
  const button = make("button", { type: "button", title: words, ariaLabel: words, ariaCurrent: String(number === S.session.current) });
  button.append(make("img", { loading: "lazy", src: url(number), alt: "" }));
  button.addEventListener("click", () => go(number));
  return button;
}

function showMade(numbers) {
  S.made = numbers;
  $("made").replaceChildren(...(numbers.length > 1 ? numbers.map(thumb) : []));
}

// Edits stand right of what they edit; a second edit of the same image begins a row below.
function showTree() {
  const children = new Map(entries().map((one) => [one.number, []]));
  for (const one of entries()) if (one.source != null) children.get(one.source).push(one.number);
  const roots = entries().filter((one) => one.source == null);
  $("tree").replaceChildren(...roots.map((root) => {
    const branch = item("div", "", "branch");
    let rows = 1;
    const grow = (number, column, row) => {
      const button = thumb(number);
      button.style.gridArea = `${row} / ${column}`;
      button.append(item("span", `#${number} ${(entries()[number].instruction || "opened").replace(/^a photo of (an? )?/, "")}`));
      branch.append(button);
      children.get(number).forEach((child, i) => grow(child, column + 1, i ? (rows += 1) : row));
    };
    grow(root.number, 1, 1);
    return branch;
  }));
  for (const button of $("made").children) button.setAttribute("aria-current", String(button.firstElementChild.src.endsWith(url(S.session.current))));
}

function showKeep() {
  const one = settled();
  $("keep").hidden = !one;
  if (!one) return;
  $("get-image").href = url(one.number);
  $("get-chain").href = url(one.number, ".txt");
  $("get-image").download = `${S.session.name}-${one.number}.png`;
  $("get-chain").download = `${S.session.name}-${one.number}.txt`;
  $("get-chain").hidden = !one.plan.text;
  for (const name of ["command", "python"]) {
    $(name).textContent = one[name];
    $(name).closest(".code").hidden = !one[name];
  }
  $("chat").textContent = `python -m got chat --output ${/^[\w./-]+$/.test(S.session.folder) ? S.session.folder : `'${S.session.folder.replaceAll("'", "'\\''")}'`} --resume`;
}

function refresh() {
  if (!S.about) return;
  const one = current(), edit = document.querySelector("[name=mode][value=edit]");
  edit.disabled = !one;
  if (!one && edit.checked) document.querySelector("[name=mode][value=draw]").checked = true;
  $("draw").textContent = mode() === "edit" ? "Edit" : "Draw";
  for (const id of ["draw", "think", "explain", "revise", "undo", "redo"]) $(id).disabled = S.busy;
  $("stop").hidden = !S.job;
  const drawn = one && one.kind !== "opened";
  $("explain").disabled ||= !drawn || S.planned;
  $("revise").disabled ||= !(S.planned || drawn || plan.view.regions.length);
  $("revise").textContent = asked().kind === "revise" ? "Redraw this plan" : "Draw this plan";
  $("prompt").placeholder = mode() === "edit" ? "make the dog green …" : "a photo of …";
  $("undo").disabled ||= !(plan.past.length || S.planned || S.session?.undo);
  $("redo").disabled ||= !(plan.future.length || S.session?.redo);
  $("examples").hidden = entries().length > 0;
  $("before-label").hidden = !one || S.planned || entries().length < 2;
  $("beside-label").hidden = S.before == null || S.planned;
  $("empty").hidden = !$("shown").hidden || S.busy || plan.view.regions.length > 0;
  $("boxes").hidden = !$("show-boxes").checked;
  $("seen").hidden = !$("show-seen").checked;
  const scales = S.about.scales[mode()];
  for (const name of Object.keys(GUIDANCES)) $(`${name}_scale`).placeholder = scales[name];
}

// ------------------------------------------------------------------------------------------------------------- moving
async function go(to) {
  if (S.busy || !S.session) return;
  await guarded("problem", async () => {
    S.session = await post(`/api/sessions/${S.session.name}/go`, { to });
    S.planned = null;
    S.before = current()?.source ?? null;
    show();
    look();
  });
}

// What the detector says of an image that was drawn before this page was opened.
function look() {
  const one = current();
  if (one && one.kind !== "opened" && S.about.observer && !S.seen.has(one.number) && !S.busy) {
    run(S.session.name, { kind: "observe", entry: one.number }, (event) => event.kind === "seen" && EVENTS.seen(event)).catch(() => {});
  }
}

function undo() {
  if (plan.undo()) return;
  if (S.planned) { S.planned = null; show(); } else if (S.session?.undo) go("undo");
}
const redo = () => (plan.redo() ? null : S.session?.redo && go("redo"));

async function openFile(file) {
  if (!file) return;
  await guarded("upload-problem", async () => {
    if (S.busy) throw new Error("An image is being drawn here. Open this one when it is done, or stop it.");
    if (file.size > S.about.upload_mb * 1e6) throw new Error(`Expected a file of at most ${S.about.upload_mb} MB but ${file.name} has ${(file.size / 1e6).toFixed(0)} MB.`);
    S.session = await post(`/api/sessions/${await ensureSession()}/open`, file);
    begin();
    document.querySelector("[name=mode][value=edit]").checked = true;
    refresh();
    $("prompt").focus();
    $("prompt").select();
  });
  $("upload").value = "";
}

function begin() {
  S.planned = null;
  showMade([]);
  S.before = current()?.source ?? null;
  show();
  look();
}

async function openSample(key) {
  await guarded("problem", async () => {
    S.session = await post(`/api/samples/${key}`);
    S.seen.clear();
    history.pushState(null, "", `/?session=${S.session.name}`);
    $("prompt").value = current().instruction;
    begin();
    $("stage").scrollIntoView();
  });
}

// --------------------------------------------------------------------------------------------------------------- start
function choice(words, choose) {
  const row = item("li"), button = make("button", { type: "button", textContent: words });
  button.addEventListener("click", choose);
  row.append(button);
  return row;
}

function listSamples() {
  const outcome = $("by-outcome").value, words = $("by-words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fit = S.samples.filter((one) => (!outcome || one.outcome === outcome)
    && words.every((word) => `${one.key} ${one.task} ${one.prompt} ${one.reason}`.toLowerCase().includes(word)));
  $("run-count").textContent = `${fit.length} of ${S.samples.length}${fit.length > 60 ? ", the first 60 shown" : ""}`;
  $("samples").replaceChildren(...fit.slice(0, 60).map((one) => {
    const row = choice(one.prompt, () => openSample(one.key));
    row.className = one.outcome;
    row.firstChild.append(item("small", `${one.key} ${one.task}: ${one.outcome}${one.reason ? `, ${one.reason}` : ""}`));
    return row;
  }));
}

async function listSessions() {
  const found = (await guarded("problem", () => get("/api/sessions"))) ?? [];
  $("sessions-root").textContent = `Folders in ${S.about.root}`;
  $("sessions").querySelector("ul").replaceChildren(...found.map((one) => {
    const row = item("li"), link = item("a", one.title || "(no request yet)");
    link.href = `/?session=${encodeURIComponent(one.name)}`;
    link.append(item("small", `${one.name}, ${one.entries} ${one.entries === 1 ? "image" : "images"}`));
    row.append(link);
    return row;
  }));
  $("sessions").showModal();
}

function theme(to) {
  const dark = to ? to === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  if (to) document.documentElement.dataset.theme = to;
  $("theme").textContent = dark ? "Light" : "Dark";
  $("theme").title = `Change to ${dark ? "light" : "dark"} colours`;
  return dark ? "dark" : "light";
}

function defaults() {
  for (const name of SETTINGS) $(name).value = "";
  for (const name of Object.keys(GUIDANCES)) { $(name).checked = true; $(`${name}_scale`).value = ""; }
  $("scheduler").value = "";
  $("seed").value = S.about.seed;
  $("images").value = 1;
}

function build() {
  const { about } = S;
  $("about").textContent = `${about.checkpoint}${about.icons ? ", the icon world: 80 kinds of objects in 10 colours, not photographs" : ""}`;
  $("scheduler").append(new Option(`${about.sampler} (default)`, ""), ...about.samplers.map((name) => new Option(name, name)));
  $("num_inference_steps").placeholder = about.steps;
  [$("width").placeholder, $("height").placeholder] = about.size;
  $("width").step = $("height").step = about.factor;
  $("width").min = $("height").min = about.factor;
  $("images").max = about.most_images;
  for (const [name, words] of Object.entries(GUIDANCES)) {
    const row = item("tr"), head = item("th", `${name}: ${words}`);
    head.scope = "row";
    const on = make("input", { type: "checkbox", id: name, ariaLabel: `Guidance by ${words}` });
    const scale = make("input", { type: "number", step: "0.1", id: `${name}_scale`, ariaLabel: `Scale of the guidance by ${words}` });
    row.append(head, ...[on, scale].map((field) => { const cell = item("td"); cell.append(field); return cell; }));
    $("guidances").append(row);
  }
  $("examples").querySelector("ul").append(...about.examples.map((words) => choice(words, () => { $("prompt").value = words; draw(); })));
  defaults();
  $("run").hidden = !about.run;
  $("run-title").textContent = `Samples of ${about.run}`;
}

function listen() {
  $("form").addEventListener("submit", (event) => { event.preventDefault(); if (!S.busy) draw(); });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!S.busy) draw(); }
  });
  $("stop").addEventListener("click", () => { if (S.job) stop(S.job).catch(() => {}); say("Stopping …"); });
  $("think").addEventListener("click", () => work("problem", { kind: "plan", prompt: $("prompt").value, entry: mode() === "edit" ? S.session.current : null }));
  $("revise").addEventListener("click", revise);
  $("explain").addEventListener("click", () => work("understand-problem", { kind: "explain", entry: S.session.current }));
  $("undo").addEventListener("click", undo);
  $("redo").addEventListener("click", redo);
  addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const typing = event.target.matches("input:not([type=checkbox]):not([type=range]), textarea:not(#chain)")
      && event.target.value !== event.target.dataset.was; // a name that is as it was has nothing to undo
    const key = event.key.toLowerCase();
    if (key === "enter" && !$("revise").disabled) { event.preventDefault(); revise(); }
    if (typing || S.busy) return;
    if (key === "z") { event.preventDefault(); (event.shiftKey ? redo : undo)(); }
    if (key === "y") { event.preventDefault(); redo(); }
  });
  for (const id of ["show-boxes", "show-seen"]) $(id).addEventListener("change", refresh);
  for (const id of ["show-changed", "beside"]) $(id).addEventListener("change", () => compare(S.before));
  $("before").addEventListener("change", () => { compare($("before").value === "" ? null : Number($("before").value)); refresh(); });
  $("slide").addEventListener("input", () => $("canvas").style.setProperty("--slide", `${$("slide").value}%`));
  for (const radio of document.querySelectorAll("[name=mode]")) radio.addEventListener("change", refresh);
  $("upload").addEventListener("change", () => openFile($("upload").files[0]));
  addEventListener("paste", (event) => openFile([...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"))));
  const files = (event) => event.dataTransfer.types.includes("Files");
  addEventListener("dragover", (event) => { if (!files(event)) return; event.preventDefault(); document.body.classList.add("dropping"); });
  addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => { if (!files(event)) return; event.preventDefault(); document.body.classList.remove("dropping"); openFile(event.dataTransfer.files[0]); });
  $("defaults").addEventListener("click", defaults);
  $("theme").addEventListener("click", () => { theme(theme(document.documentElement.dataset.theme) === "dark" ? "light" : "dark"); });
  $("sessions-open").addEventListener("click", listSessions);
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard?.writeText($(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
  $("by-outcome").addEventListener("change", listSamples);
  $("by-words").addEventListener("input", listSamples);
}

async function start() {
  S.about = await get("/api/about");
  build();
  listen();
  theme();
  const asked = new URLSearchParams(location.search).get("session");
  const [kind, name] = asked ? ["session", asked] : S.about.first ?? [];
  if (kind === "sample") await openSample(name);
  if (kind === "session") {
    S.session = await get(`/api/sessions/${encodeURIComponent(name)}`);
    history.replaceState(null, "", `/?session=${encodeURIComponent(name)}`);
    begin();
    if (S.session.job) work("problem", {}, S.session.job);
  }
  if (S.about.run) { S.samples = await get("/api/samples"); listSamples(); }
  refresh();
  document.body.dataset.ready = "yes";
}

start().catch((error) => { $("problem").textContent = error.message; refresh(); document.body.dataset.ready = "yes"; });
