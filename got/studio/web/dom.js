// What is made of elements, and of the templates of the page.
export const $ = (id) => document.getElementById(id);
export const item = (tag, text = "", kind = "") =>
  Object.assign(document.createElement(tag), { textContent: text, className: kind });
// Words of others whose signs for the direction of writing turn nothing round; they are there to be copied.
export const isolated = (words) => words.split(/([\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])/)
  .map((part, i) => (i % 2 ? item("bdi", part) : part));
export const copy = (template) => $(template).content.firstElementChild.cloneNode(true);

// As many copies of a template in a list as there are things; those that are there stay, and keep the focus.
export function repeat(list, template, things, fill) {
  while (list.children.length > things.length) list.lastElementChild.remove();
  things.forEach((thing, i) => fill(list.children[i] ?? list.appendChild(copy(template)), thing, i));
}
