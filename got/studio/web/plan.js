// The plan: its text with coloured names, and its boxes on the canvas. Either can be changed, and the other follows.
// What a change makes of the text is the program's business (/api/plan); here is only what the hand sees meanwhile.
import { post } from "./api.js";
import { $, item, repeat } from "./dom.js";

const EMPTY = { text: "", regions: [], faults: [] };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const LEAST = 30; // thousandths that a new box is wide and high; a smaller one is a click

const between = (least, value, most) => Math.max(least, Math.min(value, most));

// A box moved as far as the image goes.
function shifted([x1, y1, x2, y2], dx, dy) {
  const [right, down] = [between(-x1, dx, 1000 - x2), between(-y1, dy, 1000 - y2)];
  return [x1 + right, y1 + down, x2 + right, y2 + down];
}

// A box with one of its corners moved, the first (at 0) or the second (at 2).
function stretched(box, at, dx, dy) {
  const to = [...box];
  to[at] = between(0, box[at] + dx, 1000);
  to[at + 1] = between(0, box[at + 1] + dy, 1000);
  const [x1, y1, x2, y2] = to;
  return [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
}

function place(element, [x1, y1, x2, y2]) {
  const [left, top, width, height] = [x1, y1, x2 - x1, y2 - y1].map((value) => `${value / 10}%`);
  Object.assign(element.style, { left, top, width, height });
}

export class Plan {
  constructor(onChange) {
    this.onChange = onChange;
    this.view = this.drawn = EMPTY;
    this.past = [];
    this.future = [];
    this.seen = null;
    this.queue = Promise.resolve();
    $("chain").addEventListener("input", () => this.readText());
    $("add").addEventListener("click", () => this.add([350, 350, 650, 650]));
    $("reset").addEventListener("click", () => this.set(this.drawn, true));
    $("boxes").addEventListener("pointerdown", (event) => this.press(event));
    $("boxes").addEventListener("keydown", (event) => this.key(event));
    $("regions").addEventListener("change", ({ target }) => this.change("replace", this.indexOf(target), target.value));
    $("regions").addEventListener("click", ({ target }) => {
      if (target.type === "button") this.change("remove", this.indexOf(target));
    });
    $("regions").addEventListener("keydown", ({ key, target }) => {
      if (key === "Escape") target.value = target.defaultValue;
    });
    for (const list of [$("boxes"), $("regions")]) {
      list.addEventListener("focusin", ({ target }) => this.pick(this.indexOf(target)));
    }
  }

  get changed() { return this.view.text !== this.drawn.text; }
  get asked() { return { text: this.view.text, names: this.view.regions.map((region) => region.text) }; }

  // Which region a part of its box or of its line in the list belongs to; -1 of none.
  indexOf(part) {
    const whole = part.closest("#boxes > *, #regions > *");
    return whole ? [...whole.parentElement.children].indexOf(whole) : -1;
  }

  // Shows the plan of an image: what can be undone is gone. What the hand has changed of the same plan stays, and so does
  // what it changed while the plan was being drawn.
  show(view = EMPTY, drawing = false) {
    const same = view === this.drawn || (drawing && view.text === this.drawn.text), stays = same && this.changed;
    this.drawn = view;
    this.seen = null;
    if (!stays) {
      this.past = [];
      this.future = [];
      this.pick(-1);
    }
    this.set(stays ? this.view : view);
  }

  set(view, undoable = false) {
    if (undoable && view.text !== this.view.text) {
      this.past.push(this.view);
      this.future = [];
    }
    this.view = view;
    if ($("chain").value !== view.text) $("chain").value = view.text;
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

  // Asks for a changed plan, one after the other, because each is made of the one before.
  ask(make) {
    this.queue = this.queue.then(async () => {
      const text = $("chain").value, behind = text.length - $("chain").selectionEnd;
      const view = await post("/api/plan", make());
      if ($("chain").value !== text) return; // somebody goes on typing, and that is asked for next
      $("plan-problem").textContent = "";
      this.set(view, true);
      if (view.text !== text && document.activeElement === $("chain")) { // plain boxes have become the model's
        $("chain").selectionStart = $("chain").selectionEnd = view.text.length - behind;
      }
    }).catch((error) => {
      $("plan-problem").textContent = error.message;
      this.drawBoxes(); // back to where they were
    });
    return this.queue;
  }

  change(...change) { return this.ask(() => ({ plan: this.asked, change })); }

  move(index, to) {
    return this.ask(() => ({ plan: this.asked, change: ["move", index, to(this.view.regions[index].box_1000)] }));
  }

  readText() {
    this.drawText(); // without colours, until the answer is there
    this.ask(() => ({ plan: { ...this.asked, text: $("chain").value } }));
  }

  async add(box) {
    await this.change("add", "an object", box);
    $("regions").lastElementChild?.querySelector("input").select();
  }

  pick(index) {
    [...$("boxes").children].forEach((box, i) => box.classList.toggle("picked", i === index));
  }

  // ------------------------------------------------------------------------------------------------------- the text
  drawText() {
    const letters = [...$("chain").value], kinds = letters.map(() => ""); // code points, as the program counts them
    if ($("chain").value === this.view.text) {
      for (const { span: [name, nameEnd, token, tokenEnd], color } of this.view.regions) {
        kinds.fill("token", token, tokenEnd).fill(`name ${color}`, name, nameEnd);
      }
      for (const [start, end] of this.view.faults) kinds.fill("fault", start, end);
    }
    const starts = letters.flatMap((_, i) => (kinds[i] === kinds[i - 1] ? [] : [i]));
    $("mirror").replaceChildren(...starts.map((start, i) => {
      const [kind, color] = kinds[start].split(" ");
      const part = item("span", letters.slice(start, starts[i + 1]).join(""), kind);
      part.style.setProperty("--c", color ?? "");
      return part;
    }), "\u200b");
    $("faults").replaceChildren(...this.view.faults.map(([, , words]) => item("li", words)));
  }

  // ------------------------------------------------------------------------------------------------------ the boxes
  drawBoxes() {
    const focused = document.activeElement;
    repeat($("boxes"), "new-box", this.view.regions, (box, { text, color, box_1000: [x1, y1, x2, y2] }) => {
      box.style.setProperty("--c", color);
      box.firstElementChild.textContent = text;
      box.ariaLabel = `${text}, from ${x1}, ${y1} to ${x2}, ${y2}. Arrows move it, Shift and arrows change its size,`
        + " Enter renames it, Delete removes it.";
      place(box, [x1, y1, x2, y2]);
    });
    if (!focused.isConnected) $("boxes").lastElementChild?.focus({ preventScroll: true });
  }

  point(event) {
    const frame = $("boxes").getBoundingClientRect();
    const shares = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    return shares.map((share) => between(0, Math.round(1000 * share), 1000));
  }

  // Moves the box that is pressed, or its corner; in an empty place draws a new one from corner to corner.
  press(event) {
    if (event.button) return;
    event.preventDefault();
    const index = this.indexOf(event.target), corner = event.target.closest(".corner"), from = this.point(event);
    const held = index < 0 ? $("canvas").appendChild(item("div", "", "box new")) : $("boxes").children[index];
    const start = index < 0 ? [...from, ...from] : this.view.regions[index].box_1000;
    const at = corner?.classList.contains("first") ? 0 : 2;
    let now = start;
    if (index >= 0) held.focus({ preventScroll: true });
    held.setPointerCapture(event.pointerId);
    held.onpointermove = (moved) => {
      const [dx, dy] = this.point(moved).map((value, i) => value - from[i]);
      now = index < 0 || corner ? stretched(start, at, dx, dy) : shifted(start, dx, dy);
      place(held, now);
    };
    held.onlostpointercapture = () => {
      held.onpointermove = held.onlostpointercapture = null;
      if (index >= 0) {
        if (now !== start) this.move(index, () => now);
      } else {
        held.remove();
        if (now[2] - now[0] > LEAST && now[3] - now[1] > LEAST) this.add(now);
      }
    };
  }

  key(event) {
    const index = this.indexOf(event.target), arrow = ARROWS[event.key];
    if (index < 0 || event.ctrlKey || event.metaKey) return;
    if (arrow) {
      const [dx, dy] = arrow.map((way) => way * (event.altKey ? 1 : 10));
      const resized = (box) => stretched(box, 2, Math.max(dx, box[0] - box[2]), Math.max(dy, box[1] - box[3]));
      this.move(index, (box) => (event.shiftKey ? resized(box) : shifted(box, dx, dy)));
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.change("remove", index);
    } else if (event.key === "Enter") {
      $("regions").children[index].querySelector("input").select();
    } else {
      return;
    }
    event.preventDefault();
  }

  // ----------------------------------------------------------------------------- their names, and what is seen of them
  drawRegions() {
    repeat($("regions"), "new-region", this.view.regions, (row, region, i) => {
      const [, field, said, remove] = row.children;
      row.style.setProperty("--c", region.color);
      field.ariaLabel = `Name of box ${i}`;
      remove.ariaLabel = `Remove box ${i}`;
      if (field !== document.activeElement || field.value === field.defaultValue) field.value = region.text;
      field.defaultValue = region.text; // what it was before somebody types in it
      this.drawSaid(said, region);
    });
  }

  // What the detector found of the drawn plan; of a changed one it says nothing.
  drawSaid(element, { text, box_1000 }) {
    const fits = (one) => one.box_1000.join() === box_1000.join() && text.includes(one.name);
    const one = this.changed ? null : this.seen?.planned.find(fits);
    const right = one?.found && (!one.color || one.seen_color === one.color);
    const open = !one || (this.seen.edited && !one.iou); // an edit may be what took it away
    element.className = `said ${open ? "" : right ? "yes" : "no"}`;
    if (!one) {
      element.textContent = box_1000.join(", ");
    } else if (!one.iou) {
      element.textContent = this.seen.edited ? "not found" : "✗ not found";
    } else {
      const color = one.seen_color === one.color ? one.color : `but ${one.seen_color ?? "of no known colour"}`;
      element.textContent = `${right ? "✓" : "✗"} IoU ${one.iou.toFixed(2)}${one.color ? `, ${color}` : ""}`;
    }
  }

  showSeen(seen) {
    this.seen = seen;
    this.drawRegions();
    repeat($("seen"), "new-found", seen?.objects ?? [], (box, one) => {
      box.firstElementChild.textContent = `${one.color ?? ""} ${one.name} ${one.score.toFixed(2)}`.trim();
      place(box, one.box_1000);
    });
  }
}
