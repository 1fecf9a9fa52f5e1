"use strict";
// Samples to look through. What a run says goes into the page as text and numbers only, never as markup.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const cards = byId("cards");
  const box = byId("box");
  const BATCH = 60;
  const SVG = "http://www.w3.org/2000/svg";
  let found = [];
  let drawn = 0;
  let open = -1;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // As a shell takes it for one word, whatever is in it.
  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);
  const stageName = (stage) => data.stages[stage] ?? stage;

  // ------------------------------------------------------------------------------------------------------- images
  function boxes(kind, list) {
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", kind);
    for (const [, , x1, y1, x2, y2] of list) {
      for (const part of ["rim", "line"]) {
        const rect = document.createElementNS(SVG, "rect");
        rect.setAttribute("class", part);
        rect.setAttribute("x", x1);
        rect.setAttribute("y", y1);
        rect.setAttribute("width", Math.max(0, x2 - x1));
        rect.setAttribute("height", Math.max(0, y2 - y1));
        group.append(rect);
      }
    }
    return group;
  }

  function framed(view, alt, large) {
    const frame = make("span", "view");
    if (!view.file) {
      frame.append(make("span", "hole", "no image"));
      return frame;
    }
    const image = make("img");
    if (!large) image.loading = "lazy";
    image.decoding = "async";
    [image.width, image.height] = view.size;
    image.alt = alt;
    image.src = data.pictures[view.file] ?? `pictures/${view.file}`;
    const overlay = document.createElementNS(SVG, "svg");
    overlay.setAttribute("viewBox", "0 0 1000 1000");
    overlay.setAttribute("preserveAspectRatio", "none");
    overlay.setAttribute("aria-hidden", "true");
    overlay.append(boxes("planned", view.planned), boxes("seen", view.seen));
    frame.append(image, overlay);
    if (large) {
      frame.append(...tags("planned", view.planned), ...tags("seen", view.seen));
    }
    return frame;
  }

  // What an edit starts from or should lead to. Its own boxes are not known, so none are drawn.
  function beside(view, name) {
    const files = view.beside.filter(([label]) => label === name).map(([, file]) => file);
    return files.map((file) => framed({ file, size: view.size, planned: [], seen: [] }, name, false));
  }

  function tags(kind, list) {
    // A plan's names hang inside the upper edge of their boxes, a detection's stand on the lower one.
    const edge = kind === "planned" ? "top" : "bottom";
    const taken = [];
    return list.map(([name, color, x1, y1, x2, y2]) => {
      const tag = make("span", `tag ${kind}`, `${color} ${name}`.trim());
      const across = Math.max(0, Math.min(80, x1 / 10));
      let up = Math.max(0, Math.min(94, edge === "top" ? y1 / 10 : 100 - y2 / 10));
      while (up < 90 && taken.some(([x, y]) => Math.abs(x - across) < 15 && Math.abs(y - up) < 4.5)) up += 4.5;
      taken.push([across, up]);
      tag.style.left = `${across}%`;
      tag.style[edge] = `${up}%`;
      return tag;
    });
  }

  function describe(view) {
    const list = (items) => items.map(([name, color]) => `${color} ${name}`.trim()).join(", ") || "nothing";
    return `planned: ${list(view.planned)}; detected: ${list(view.seen)}`;
  }

  // ---------------------------------------------------------------------------------------------------------- cards
  function card(sample, place) {
    const item = make("li", "card");
    const button = make("button");
    button.type = "button";
    button.setAttribute("aria-label", `Sample ${sample.key}, ${sample.outcome}: ${sample.prompt}`);
    const alone = sample.views.length === 1;
    for (const view of sample.views) {
      const own = framed(view, describe(view), false);
      button.append(...(alone ? [...beside(view, "source"), own, ...beside(view, "target")] : [own]));
    }
    button.addEventListener("click", () => show(place));
    item.append(button, make("p", "prompt", sample.prompt || "prompt unknown"));
    for (const view of sample.views) {
      if (view.reason) item.append(make("p", `reason ${view.outcome}`, view.reason));
    }
    const words = [sample.outcome, sample.stage && `failed at: ${stageName(sample.stage)}`, sample.task, sample.key];
    if (data.runs.length > 1 && sample.views.length === 1) words.push(data.runs[sample.run]);
    item.append(make("p", "small", words.filter(Boolean).join(" · ")));
    return item;
  }

  function more() {
    const next = found.slice(drawn, drawn + BATCH);
    cards.append(...next.map((sample, i) => card(sample, drawn + i)));
    drawn += next.length;
    byId("more").hidden = drawn >= found.length;
  }

  // -------------------------------------------------------------------------------------------------------- filters
  const FILTERS = {
    "by-run": (sample) => String(sample.run),
    "by-task": (sample) => sample.task,
    "by-outcome": (sample) => sample.outcome,
    "by-stage": (sample) => sample.stage,
  };
  const NAMES = {
    "by-run": (value) => data.runs[Number(value)],
    "by-stage": stageName,
  };

  for (const sample of data.samples) {
    const said = sample.views.flatMap((view) => [view.reason, view.chain]);
    sample.text = [sample.key, sample.prompt, ...said].join("\n").toLowerCase();
  }

  function fill(id) {
    const counts = new Map();
    for (const sample of data.samples) {
      const value = FILTERS[id](sample);
      if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    const select = byId(id);
    select.append(new Option("all", ""));
    for (const [value, count] of counts) select.append(new Option(`${NAMES[id]?.(value) ?? value} (${count})`, value));
    select.closest("label").hidden = counts.size < 2;
    select.addEventListener("change", filter);
  }

  function filter() {
    const wanted = Object.keys(FILTERS).map((id) => [FILTERS[id], byId(id).value]).filter(([, value]) => value);
    const words = byId("by-words").value.toLowerCase().split(/\s+/).filter(Boolean);
    found = data.samples.filter(
      (sample) => wanted.every(([of, value]) => of(sample) === value) && words.every((word) => sample.text.includes(word)),
    );
    drawn = 0;
    cards.replaceChildren();
    more();
    const all = data.samples.length;
    byId("count").hidden = all === 0;
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${all.toLocaleString("en")} samples`;
  }

  // ------------------------------------------------------------------------------------------------------- lightbox
  function rows(title, list, scored) {
    if (!list.length) return [];
    const table = make("table");
    table.append(make("caption", "", title));
    const head = table.createTHead().insertRow();
    for (const name of ["what", "box ‰", ...(scored ? ["score"] : [])]) {
      const header = make("th", "", name);
      header.scope = "col";
      head.append(header);
    }
    const body = table.createTBody();
    for (const [name, color, x1, y1, x2, y2, score] of list) {
      const row = body.insertRow();
      const first = make("th", "", `${color} ${name}`.trim());
      first.scope = "row";
      row.append(first, make("td", "number", `${x1},${y1} – ${x2},${y2}`));
      if (scored) row.append(make("td", "number", score.toFixed(3)));
    }
    return [table];
  }

  // One view has its words beside it, two views have them below.
  function column(view, _, views) {
    const part = make("div");
    const side = views.length === 1 ? make("div") : part;
    if (view.label) part.append(make("h3", "", view.label));
    part.append(framed(view, describe(view), true));
    for (const [name] of view.beside) {
      const figure = make("figure", "beside");
      figure.append(...beside(view, name), make("figcaption", "", name));
      part.append(figure);
    }
    side.append(make("p", `reason ${view.outcome}`, view.reason || (view.outcome.endsWith("judged") ? view.outcome : `judged ${view.outcome}`)));
    if (view.stage) {
      side.append(make("p", "small", `Failed at: ${stageName(view.stage)} (${data.words[view.stage] ?? ""})`));
    }
    if (view.chain) side.append(make("h3", "", "Chain"), make("p", "chain", view.chain));
    side.append(...rows("Planned", view.planned, false), ...rows("Detected and counted", view.seen, true));
    return views.length === 1 ? [part, side] : [part];
  }

  function show(place) {
    open = place;
    const sample = found[place];
    byId("box-title").textContent = sample.prompt || sample.key;
    const where = make("p", "small", `${sample.task} · ${sample.key} · ${sample.outcome} · ${data.runs[sample.run]}`);
    where.style.gridColumn = "1 / -1";
    where.style.margin = "0";
    const studio = make("p", "small", `Change its plan and draw it again: ${data.studio[sample.run]} --sample ${quoted(sample.key)}`);
    studio.style.gridColumn = "1 / -1";
    const offered = data.studio[sample.run] && sample.views.some((view) => view.file);
    byId("box-body").replaceChildren(where, ...sample.views.flatMap(column), ...(offered ? [studio] : []));
    byId("before").disabled = place === 0;
    byId("next").disabled = place === found.length - 1;
    if (!box.open) box.showModal();
    box.scrollTop = 0;
  }

  function step(by) {
    const place = open + by;
    if (place < 0 || place >= found.length) return;
    while (place >= drawn) more();
    show(place);
  }

  byId("before").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => box.close());
  box.addEventListener("click", (event) => event.target === box && box.close());
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  box.addEventListener("close", () => cards.children[open]?.querySelector("button").focus());

  // ---------------------------------------------------------------------------------------------------------- start
  for (const id of Object.keys(FILTERS)) fill(id);
  byId("by-words").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const kind of ["planned", "seen"]) {
    const check = byId(`show-${kind}`);
    const apply = () => document.body.classList.toggle(`no-${kind}`, !check.checked);
    check.addEventListener("change", apply);
  }
  cards.classList.toggle("pairs", data.samples.some((sample) => sample.views.length > 1 || sample.views[0].beside.length));
  byId("filters").hidden = data.samples.length === 0;
  byId("more").addEventListener("click", more);
  new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && drawn < found.length && more(), {
    rootMargin: "600px",
  }).observe(byId("more"));
  filter();
})();
