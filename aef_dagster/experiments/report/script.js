// What a click does: colours, sorting, enlarging. Everything can be read without it.
"use strict";

// Light or dark by the button; until it is used, by the system.
const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");

function stored(value) {
  // A page opened from a file or inside a frame may have no storage.
  try {
    if (value) localStorage.setItem("report-theme", value);
    return localStorage.getItem("report-theme");
  } catch {
    return null;
  }
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
}

function nameButton() {
  button.textContent = isDark() ? "Light" : "Dark";
  button.setAttribute("aria-label", `${button.textContent} colours`);
}

const before = stored();
if (before === "dark" || before === "light") root.dataset.theme = before;
button.hidden = false;
nameButton();
systemDark.addEventListener("change", nameButton);
button.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  stored(root.dataset.theme);
  nameButton();
});

// Tables sort by their column heads, which become buttons: so Tab, Enter and Space work too.
const words = new Intl.Collator("en", { numeric: true });

function compare(a, b, sign) {
  const [aMissing, bMissing] = [a, b].map((cell) => cell.classList.contains("none"));
  if (aMissing || bMissing) return aMissing - bMissing; // what is missing stays last
  return sign * (a.dataset.v !== undefined && b.dataset.v !== undefined
    ? Number(a.dataset.v) - Number(b.dataset.v)
    : words.compare(a.textContent, b.textContent));
}

function sortBy(head) {
  const column = head.cellIndex;
  const table = head.closest("table");
  const direction = head.ariaSort === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(a.cells[column], b.cells[column], sign));
  table.tBodies[0].append(...rows);
}

for (const head of document.querySelectorAll("thead th")) {
  if (head.closest("table").tBodies[0].rows.length < 2) continue;
  const inner = document.createElement("button");
  inner.type = "button";
  inner.append(...head.childNodes);
  inner.addEventListener("click", () => sortBy(head));
  head.append(inner);
}

// A picture opens at its own size, for small screens.
const view = document.createElement("dialog");
const close = document.createElement("button");
const large = document.createElement("img");
close.type = "button";
close.textContent = "Close";
view.append(close, large);
document.body.append(view);
view.addEventListener("click", (event) => {
  if (event.target !== large) view.close();
});
for (const picture of document.querySelectorAll(".card img")) {
  const open = document.createElement("button");
  open.type = "button";
  open.className = "enlarge";
  open.setAttribute("aria-label", `Enlarge: ${picture.alt}`);
  picture.replaceWith(open);
  open.append(picture);
  open.addEventListener("click", () => {
    large.src = picture.src;
    large.alt = picture.alt;
    view.showModal();
  });
}

// The contents show where the reader is.
const links = new Map(
  [...document.querySelectorAll("nav a")].map((link) => [link.getAttribute("href").slice(1), link]));
const strip = document.querySelector("nav ul");

function mark(current) {
  for (const link of links.values()) link.removeAttribute("aria-current");
  current.setAttribute("aria-current", "true");
  strip.scrollLeft = current.offsetLeft - strip.offsetLeft - 16; // on a phone they are a strip
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) mark(links.get(entry.target.id));
}, { rootMargin: "-20% 0px -70% 0px" });
for (const id of links.keys()) seen.observe(document.getElementById(id));
