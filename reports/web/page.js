"use strict";
// Tables that sort within the groups whose rows compare, and the switch between light and dark.

function valueOf(row, index) {
  const cell = row.cells[index];
  if (index === 0) return cell.firstChild.textContent.trim().toLowerCase(); // without the mark of what is reported
  if (cell.classList.contains("words")) return cell.textContent.trim().toLowerCase();
  return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
}

function compareValues(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // what is missing goes last, both ways
  return sign * (typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : a - b);
}

function sortBy(table, header) {
  const index = header.cellIndex;
  const before = header.getAttribute("aria-sort");
  const order = before === "descending" || (before === "none" && index === 0) ? "ascending" : "descending";
  for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const [source, ...rows] = body.rows;
    rows.sort((a, b) => compareValues(valueOf(a, index), valueOf(b, index), sign));
    body.replaceChildren(source, ...rows);
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    header.querySelector("button").addEventListener("click", () => sortBy(table, header));
  }
}

const theme = document.getElementById("theme");
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemIsDark.matches;
}

function nameTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
}

theme.hidden = false;
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
systemIsDark.addEventListener("change", nameTheme);
nameTheme();
