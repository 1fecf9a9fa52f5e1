// The plan: its text with coloured names, and its boxes on the canvas. Either can be changed, and the other follows.
// What a change makes of the text is the program's business (/api/plan); here is only what the hand sees meanwhile.
import { post } from "./api.js";

const $ = (id) => document.getElementById(id);
const EMPTY = { text: "", regions: [], faults: [] };
const clamp = (value) => Math.max(0, Math.min(1000, Math.round(value)));

export class Plan {
  constructor(onChange) {
    this.onChange = onChange;
    this.view = this.drawn = EMPTY;
    this.past = [];
    this.future = [];
    this.picked = null;
    this.seen = null;
    this.waiting = null; // the last move of a drag, which the program has not been told yet
    this.queue = Promise.resolve();
    $("chain").addEventListener("input", () => this.readText());
    $("add").addEventListener("click", () => this.add([350, 350, 650, 650]));
    $("reset").addEventListener("click", () => this.set(this.drawn, { keep: true }));
    $("boxes").addEventListener("pointerdown", (event) => this.press(event));
    $("boxes").addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.fitText()).observe($("editor"));
  }

  get changed() { return this.view.text !== this.drawn.text; }
  get asked() { return { text: this.view.text, names: this.view.regions.map((region) => region.text) }; }

  // Shows the plan of an image: what can be undone is gone.
  show(view) {
    this.drawn = view ?? EMPTY;
    this.past = [];
    this.future = [];
    this.picked = null;
    this.seen = null;
    this.set(this.drawn);
  }

  set(view, { keep = false, typing = false } = {}) {
    if (keep && view.text !== this.view.text) {
      this.past.push(this.view);
      this.future = [];
    }
    this.view = view;
    if (this.picked !== null && this.picked >= view.regions.length) this.picked = null;
    if (!typing) $("chain").value = view.text;
    this.drawText();
    this.drawBoxes();
    this.drawRegions();
    $("reset").disabled = !this.changed;
    this.onChange();
  }

  undo() { return this.swap(this.past, this.future); }
  redo() { return this.swap(this.future, this.past); }
  swap(from, to) {
    if (!from.length) return false;
    to.push(this.view);
    this.set(from.pop());
    return true;
  }

  say(words) { $("plan-problem").textContent = words; }

  // Changes one after the other, because each is of the plan that the one before has left.
  ask(make) {
    this.queue = this.queue.then(make).catch((error) => this.say(error.message));
    return this.queue;
  }

  change(...change) {
    return this.ask(async () => {
      const view = await post("/api/plan", { plan: this.asked, change });
      this.say("");
      this.set(view, { keep: true });
    }).then(() => this.drawBoxes());
  }

  readText() {
    this.drawText(); // its old colours, until the answer is there
    this.ask(async () => {
      const text = $("chain").value;
      const view = await post("/api/plan", { plan: { ...this.asked, text } });
      if ($("chain").value !== text) return;
      const rest = text.length - $("chain").selectionEnd; // behind the cursor
      this.set(view, { keep: true, typing: view.text === text }); // plain boxes have become the model's
      if (view.text !== text) $("chain").selectionStart = $("chain").selectionEnd = view.text.length - rest;
    });
  }

  move(index, box) {
    const same = this.waiting !== null;
    this.waiting = [index, box];
    this.view.regions[index] = { ...this.view.regions[index], box };
    this.place($("boxes").children[index], box);
    if (same) return;
    this.ask(async () => {
      const change = ["move", ...this.waiting];
      this.waiting = null;
      const view = await post("/api/plan", { plan: this.asked, change });
      if (this.waiting) view.regions[this.waiting[0]].box = this.waiting[1];
      this.say("");
      this.set(view, { keep: !this.dragging || this.dragging.first });
      if (this.dragging) this.dragging.first = false;
    });
  }

  async add(box) {
    await this.change("add", "an object", box);
    this.pick(this.view.regions.length - 1);
    const field = $("regions").lastElementChild?.querySelector("input");
    field?.focus();
    field?.select();
  }

  pick(index) {
    this.picked = index;
    [...$("boxes").children].forEach((box, i) => box.classList.toggle("picked", i === index));
  }

  // ------------------------------------------------------------------------------------------------------- the text
  drawText() {
    const text = [...$("chain").value], kinds = new Array(text.length).fill("");
    const paint = (start, end, kind) => kinds.fill(kind, start, Math.min(end, text.length));
    if ($("chain").value === this.view.text) {
      this.view.regions.forEach(({ span: [a, b, c, d] }, i) => { paint(c, d, "token"); paint(a, b, `name ${i}`); });
      for (const [start, end] of this.view.faults) paint(start, end, "fault");
    }
    const parts = [];
    for (let start = 0, end; start < text.length; start = end) {
      for (end = start + 1; end < text.length && kinds[end] === kinds[start];) end += 1;
      const [kind, index] = kinds[start].split(" "), part = item("span", text.slice(start, end).join(""), kind);
      if (index) part.style.setProperty("--c", this.view.regions[index].css);
      parts.push(part);
    }
    $("mirror").replaceChildren(...parts, "\u200b");
    $("faults").replaceChildren(...this.view.faults.map(([, , words]) => item("li", words)));
    this.fitText();
  }

  fitText() {
    $("chain").style.height = "auto";
    $("chain").style.height = `${$("chain").scrollHeight + 2}px`;
  }

  // ------------------------------------------------------------------------------------------------------ the boxes
  place(element, [x1, y1, x2, y2]) {
    Object.assign(element.style, { left: `${x1 / 10}%`, top: `${y1 / 10}%`, width: `${(x2 - x1) / 10}%`, height: `${(y2 - y1) / 10}%` });
  }

  drawBoxes() {
    const root = $("boxes"), focused = [...root.children].indexOf(document.activeElement);
    while (root.children.length > this.view.regions.length) root.lastElementChild.remove();
    this.view.regions.forEach((region, i) => {
      let box = root.children[i];
      if (!box) {
        box = item("div", "", "box");
        box.tabIndex = 0;
        box.setAttribute("role", "application"); // so that a screen reader leaves the arrows to it
        box.setAttribute("aria-roledescription", "box of the plan");
        box.append(item("span", "", "tag"), item("span", "", "corner first"), item("span", "", "corner"));
        root.append(box);
      }
      box.style.setProperty("--c", region.css);
      box.firstElementChild.textContent = region.text;
      const [x1, y1, x2, y2] = region.box;
      box.setAttribute("aria-label", `${region.text}, from ${x1}, ${y1} to ${x2}, ${y2}. Arrows move it, Shift and arrows`
        + " change its size, Enter renames it, Delete removes it.");
      box.classList.toggle("picked", i === this.picked);
      this.place(box, region.box);
    });
    if (focused >= 0) (root.children[focused] ?? root.lastElementChild)?.focus({ preventScroll: true });
  }

  point(event) {
    const frame = $("boxes").getBoundingClientRect();
    return [clamp(1000 * (event.clientX - frame.left) / frame.width), clamp(1000 * (event.clientY - frame.top) / frame.height)];
  }

  press(event) {
    if (event.button) return;
    const box = event.target.closest(".box"), index = box ? [...$("boxes").children].indexOf(box) : -1;
    const [x, y] = this.point(event), corner = event.target.closest(".corner");
    const start = box ? [...this.view.regions[index].box] : null;
    this.dragging = { first: true };
    if (box) { box.focus({ preventScroll: true }); this.pick(index); }
    const ghost = box ? null : item("div", "", "box");
    ghost?.style.setProperty("--c", "#fff");
    let made = null;
    const follow = (moved) => {
      const [px, py] = this.point(moved), [dx, dy] = [px - x, py - y];
      if (!box) {
        made = [Math.min(x, px), Math.min(y, py), Math.max(x, px), Math.max(y, py)];
        if (!ghost.isConnected) $("canvas").append(ghost);
        this.place(ghost, made);
      } else if (corner) {
        const at = corner.classList.contains("first") ? 0 : 2, to = [...start];
        to[at] += dx;
        to[at + 1] += dy;
        this.move(index, [Math.min(to[0], to[2]), Math.min(to[1], to[3]), Math.max(to[0], to[2]), Math.max(to[1], to[3])].map(clamp));
      } else {
        const [mx, my] = [Math.max(-start[0], Math.min(1000 - start[2], dx)), Math.max(-start[1], Math.min(1000 - start[3], dy))];
        this.move(index, [start[0] + mx, start[1] + my, start[2] + mx, start[3] + my]);
      }
    };
    const end = () => {
      removeEventListener("pointermove", follow);
      ghost?.remove();
      this.ask(async () => { this.dragging = null; });
      if (made && made[2] - made[0] > 30 && made[3] - made[1] > 30) this.add(made);
    };
    addEventListener("pointermove", follow);
    addEventListener("pointerup", end, { once: true });
    event.preventDefault();
  }

  key(event) {
    const box = event.target.closest(".box"), index = [...$("boxes").children].indexOf(box);
    if (index < 0 || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (steps) {
      const by = event.altKey ? 1 : 10, [dx, dy] = steps.map((step) => step * by), [x1, y1, x2, y2] = this.view.regions[index].box;
      const moved = event.shiftKey
        ? [x1, y1, Math.max(x1, clamp(x2 + dx)), Math.max(y1, clamp(y2 + dy))]
        : [x1, y1, x2, y2].map((value, i) => value + (i % 2 ? Math.max(-y1, Math.min(1000 - y2, dy)) : Math.max(-x1, Math.min(1000 - x2, dx))));
      this.move(index, moved);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.change("remove", index);
    } else if (event.key === "Enter") {
      $("regions").children[index].querySelector("input").select();
    } else {
      return;
    }
    event.preventDefault();
  }

  // ---------------------------------------------------------------------------------------------------- their names
  drawRegions() {
    const root = $("regions");
    while (root.children.length > this.view.regions.length) root.lastElementChild.remove();
    this.view.regions.forEach((region, i) => {
      const row = root.children[i] ?? root.appendChild(this.row(i));
      row.style.setProperty("--c", region.css);
      const field = row.querySelector("input");
      if (field !== document.activeElement || field.value === field.dataset.was) field.value = region.text;
      field.dataset.was = region.text;
      this.drawSaid(row.querySelector(".said"), region);
    });
  }

  row(index) {
    const row = item("li"), field = make("input", { ariaLabel: `Name of box ${index}`, maxLength: 200 });
    const remove = make("button", { type: "button", textContent: "Remove", ariaLabel: `Remove box ${index}` });
    const rename = () => {
      if (field.value === field.dataset.was) return;
      field.dataset.was = field.value;
      this.change("replace", index, field.value);
    };
    field.addEventListener("change", rename);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") rename();
      if (event.key === "Escape") { field.value = field.dataset.was; }
    });
    field.addEventListener("focus", () => this.pick(index));
    remove.addEventListener("click", () => this.change("remove", index));
    row.append(item("span", "", "swatch"), field, item("span", "", "said"), remove);
    return row;
  }

  // What the detector found of the drawn plan; of a changed one it says nothing.
  drawSaid(element, region) {
    const found = this.seen && !this.changed
      ? this.seen.planned.find((one) => one.box_1000.join() === region.box.join() && region.text.endsWith(one.name)) : null;
    element.classList.remove("yes", "no");
    if (!found) {
      element.textContent = region.box.join(", ");
      return;
    }
    const color = found.color && found.iou ? (found.seen_color === found.color ? `, ${found.color}` : `, but ${found.seen_color ?? "of no known colour"}`) : "";
    const right = found.found && (!found.color || found.seen_color === found.color);
    element.classList.add(right ? "yes" : "no");
    element.textContent = found.iou ? `${right ? "✓" : "✗"} IoU ${found.iou.toFixed(2)}${color}` : "✗ not found";
  }

  showSeen(seen) {
    this.seen = seen;
    this.drawRegions();
    $("seen").replaceChildren(...(seen?.objects ?? []).map((one) => {
      const box = item("div", "", "found");
      box.append(item("span", `${one.color ?? ""} ${one.name} ${one.score.toFixed(2)}`.trim()));
      this.place(box, one.box_1000);
      return box;
    }));
  }
}

export const make = (tag, fields) => Object.assign(document.createElement(tag), fields);
export const item = (tag, text = "", kind = "") => make(tag, { textContent: text, className: kind });
