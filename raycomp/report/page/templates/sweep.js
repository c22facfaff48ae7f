"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const options = { responsive: true, displaylogo: false };
const table = document.getElementById("front-table");
const lines = () => [...table.querySelectorAll("tbody tr")];
const choice = document.querySelector("#recipe select");
let marking = false;

const narrow = () => innerWidth < 700; // pixels

// Two panels side by side, one below the other on a narrow page.
function stacked(layout) {
  const panels = Object.keys(layout).filter((name) => /^xaxis\d*$/.test(name));
  if (!narrow() || panels.length !== 2 || layout.annotations?.length) return layout; // titles would stay behind
  const moved = structuredClone(layout);
  panels.forEach((name, i) => {
    moved[name].domain = [0, 1];
    moved[name.replace("x", "y")].domain = i ? [0, 0.42] : [0.58, 1];
  });
  moved.height = 1.7 * layout.height;
  moved.legend.y = 0.7 * layout.legend.y;
  return moved;
}

function draw(place, figure) {
  Plotly.react(place, figure.data, stacked(figure.layout), options);
}

function choose(id) {
  const recipe = data.recipes[id];
  if (!recipe) return; // a trial that is not on the front
  choice.value = id;
  lines().forEach((line) => line.setAttribute("aria-selected", line.dataset.recipe === id));
  document.getElementById("recipe-properties").replaceChildren(
    ...recipe.properties.flatMap(([name, text]) => {
      const [term, description] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      description.textContent = text;
      return [term, description];
    }),
  );
  for (const place of document.querySelectorAll("#recipe .plot")) {
    const figure = recipe.figures[place.id.replace("recipe-", "")];
    place.closest(".part").hidden = !figure; // hide the figure of the last recipe
    if (figure) draw(place, figure);
  }
}

async function mark(place, ids) {
  if (marking) return;
  marking = true; // removing the box below emits a selection event
  const chosen = place.data.map((trace) =>
    ids && trace.customdata ? trace.customdata.flatMap((id, i) => (ids.has(id) ? [i] : [])) : null,
  );
  lines().forEach((line) => line.classList.toggle("unmarked", Boolean(ids) && !ids.has(line.dataset.recipe)));
  await Plotly.relayout(place, { selections: [] }); // a remaining box would select again at each restyle, endlessly
  await Plotly.restyle(place, { selectedpoints: chosen });
  marking = false;
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
  const value = (line) => {
    const text = line.children[column].textContent.trim();
    return head.classList.contains("text") ? text : parseFloat(text);
  };
  const blank = (cell) => cell === "" || Number.isNaN(cell); // last in both directions
  const compare = (a, b) => blank(a) - blank(b) || (down ? -1 : 1) * (a < b ? -1 : Number(a > b));
  table.tBodies[0].append(...lines().sort((a, b) => compare(value(a), value(b))));
}

const figures = () => [...document.querySelectorAll("[data-figure]")];
figures().forEach((place) => draw(place, data.figures[place.dataset.figure]));
let wasNarrow = narrow();
addEventListener("resize", () => {
  if (narrow() === wasNarrow) return; // plotly adapts the width itself
  wasNarrow = narrow();
  figures().forEach((place) => draw(place, data.figures[place.dataset.figure]));
});
link(document.querySelector("[data-figure=front]"));
table.querySelectorAll("th").forEach((head) => head.querySelector("button").addEventListener("click", () => sort(head)));
lines().forEach((line) => {
  line.addEventListener("click", () => choose(line.dataset.recipe));
  line.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault(); // Space scrolls
    choose(line.dataset.recipe);
  });
});
document.querySelectorAll("a[data-recipe]").forEach((link) =>
  link.addEventListener("click", () => choose(link.dataset.recipe)),
);
choice.addEventListener("change", () => choose(choice.value));
const middle = choice.options[Math.floor(choice.options.length / 2)];
if (middle) choose(middle.value);
