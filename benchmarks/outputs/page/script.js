// The page: filters, table, theme, download; charts.js draws.

const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const root = document.documentElement;

// What is shown

let view = "means"; // or "runs": the table's rows, where some are means over seeds
const filters = document.getElementById("filters");

function shown() {
  const chosen = filters ? all("select", filters).filter((select) => select.selectedIndex > 0) : [];
  const fits = (run) => chosen.every((select) => run.what[select.dataset.name] === select.selectedOptions[0].dataset.value);
  return data.runs.map((run, i) => ({ ...run, i })).filter(fits);
}

function update() {
  const runs = shown();
  const places = new Set(runs.map((run) => run.i));
  for (const element of all("[data-members]")) {
    const { members, views = view } = element.dataset;
    element.hidden = !views.includes(view) || !members.split(" ").some((place) => places.has(Number(place)));
  }
  if (filters) {
    const whole = runs.length === data.runs.length;
    filters.querySelector("output").textContent = whole ? `${runs.length} runs` : `${runs.length} of ${data.runs.length} runs`;
    filters.querySelector("button").hidden = whole;
  }
  if (window.Plotly) for (const figure of all("[data-chart]")) draw(figure, runs);
}

filters?.addEventListener("change", update);
filters?.querySelector("button").addEventListener("click", () => {
  filters.reset();
  update();
});

// The table

const table = document.getElementById("table");
const heads = all("thead th", table).filter((head) => head.querySelector("button"));

function sortBy(column) {
  const head = heads[column];
  const numeric = !head.classList.contains("left");
  const first = numeric ? "descending" : "ascending";
  const other = numeric ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  for (const each of heads) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const value = (body) => {
    const cell = body.rows[0].cells[column];
    if (!numeric) return cell?.textContent ?? "";
    return cell?.dataset.value === undefined ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null); // rows without the number stand last
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };
  const bodies = [...table.tBodies].map((body) => [value(body), body]).sort(([a], [b]) => compare(a, b));
  table.append(...bodies.map(([, body]) => body));
}

heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortBy(column)));

table.addEventListener("click", async ({ target }) => {
  const body = target.closest("tbody");
  if (target.matches(".more")) {
    const open = target.getAttribute("aria-expanded") !== "true";
    target.setAttribute("aria-expanded", open);
    target.textContent = open ? "hide" : "show";
    body.rows[1].hidden = !open;
  } else if (target.matches(".copy")) {
    await copy(body.querySelector("code"));
    target.textContent = "Copied";
    setTimeout(() => (target.textContent = "Copy"), 1500);
  }
});

async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch { // a browser that refuses the clipboard to a file
    getSelection().selectAllChildren(element);
    document.execCommand("copy");
  }
}

// CSV

const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

document.getElementById("csv").addEventListener("click", () => {
  const [header, ...rows] = data.csv;
  const lines = [header, ...shown().map((run) => rows[run.i])];
  const text = lines.map((line) => line.map((value) => quoted(String(value ?? ""))).join(",") + "\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "runs.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
});

// Light and dark: the system's, until the button chooses

const system = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");

function theme() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  root.toggleAttribute("data-dark", dark);
  button.textContent = dark ? "Light" : "Dark";
  button.setAttribute("aria-pressed", dark);
  update();
}

button.addEventListener("click", () => {
  root.dataset.theme = root.hasAttribute("data-dark") ? "light" : "dark";
  theme();
});
system.addEventListener("change", theme);

// The switches: means or runs, steps or seconds

function choice(name, choose) {
  for (const button of all(`[${name}]`)) {
    button.addEventListener("click", () => {
      choose(button.getAttribute(name));
      for (const each of all(`[${name}]`)) each.setAttribute("aria-pressed", each === button);
      update();
    });
  }
}

choice("data-show", (chosen) => (view = chosen));
choice("data-axis", (chosen) => (axis = chosen));

theme();
loadPlotly().then(update, () => {
  for (const figure of all("[data-chart]")) {
    figure.querySelector(".note").textContent = "This browser can't unpack the charts; a newer one can.";
    figure.querySelector(".note").hidden = false;
  }
});
