"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const options = { responsive: true, displaylogo: false };
const table = document.getElementById("front-table");
const lines = () => [...table.querySelectorAll("tbody tr")];
const choice = document.querySelector("#recipe select");

function draw(place, figure) {
  Plotly.react(place, figure.data, figure.layout, options);
}

function choose(id) {
  const recipe = data.recipes[id];
  if (!recipe) return; // a trial that is not on the front
  choice.value = id;
  lines().forEach((line) => line.classList.toggle("chosen", line.dataset.recipe === id));
  document.getElementById("recipe-facts").replaceChildren(
    ...recipe.facts.flatMap(([name, text]) => {
      const [term, told] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      told.textContent = text;
      return [term, told];
    }),
  );
  for (const [name, figure] of Object.entries(recipe.figures)) {
    draw(document.getElementById(`recipe-${name}`), figure);
  }
}

function mark(place, ids) {
  const chosen = place.data.map((trace) =>
    ids && trace.customdata ? trace.customdata.flatMap((id, i) => (ids.has(id) ? [i] : [])) : null,
  );
  Plotly.restyle(place, { selectedpoints: chosen });
  lines().forEach((line) => line.classList.toggle("unmarked", Boolean(ids) && !ids.has(line.dataset.recipe)));
}

function link(place) {
  place.on("plotly_click", (event) => choose(event.points[0].customdata));
  place.on("plotly_selected", (event) => {
    if (event) mark(place, new Set(event.points.map((point) => point.customdata)));
  });
  place.on("plotly_deselect", () => mark(place, null));
}

function sort(head) {
  const heads = [...head.parentElement.children];
  const column = heads.indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const cell = (line) => line.children[column].textContent.trim();
  const compare = head.classList.contains("text")
    ? (a, b) => cell(a).localeCompare(cell(b))
    : (a, b) => (parseFloat(cell(a)) || 0) - (parseFloat(cell(b)) || 0);
  table.tBodies[0].append(...lines().sort((a, b) => (down ? -1 : 1) * compare(a, b)));
}

for (const place of document.querySelectorAll("[data-figure]")) draw(place, data.figures[place.dataset.figure]);
link(document.querySelector("[data-figure=front]"));
table.querySelectorAll("th").forEach((head) => head.querySelector("button").addEventListener("click", () => sort(head)));
lines().forEach((line) => {
  line.addEventListener("click", () => choose(line.dataset.recipe));
  line.addEventListener("keydown", (event) => {
    if (event.key === "Enter") choose(line.dataset.recipe);
  });
});
choice.addEventListener("change", () => choose(choice.value));
const middle = choice.options[Math.floor(choice.options.length / 2)];
if (middle) choose(middle.value);
