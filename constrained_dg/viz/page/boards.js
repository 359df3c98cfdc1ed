// How an answer is drawn: cells are buttons, in a row, a grid, or as nodes of a graph; edges are lines behind them.

const SVG = "http://www.w3.org/2000/svg";
const MARKS = { renoised: "~", searched: "◆" };
let boards = 0;

function line(a, b, className, attributes = {}) {
  const element = document.createElementNS(SVG, "line");
  const values = { x1: a[0], y1: a[1], x2: b[0], y2: b[1], class: className, ...attributes };
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  return element;
}

// Places of the unit square in percent of the board, y upwards, with room for the nodes at its rim.
function inPercent(places) {
  return places.map(([x, y]) => [6 + 88 * x, 94 - 88 * y]);
}

class Board {
  constructor(picture, length, label, selected) {
    this.picture = picture;
    this.selected = selected;
    this.chosen = null;
    this.shown = [];
    this.element = make("div", `board ${picture.kind}`, undefined, { role: "group", "aria-label": label });
    const places = picture.places ? inPercent(picture.places) : null;
    this.places = places;
    if (places) this.drawEdges();
    this.buttons = picture.kind === "pairs" ? [] : Array.from({ length }, (_, at) => this.button(at));
    if (picture.kind === "grid") this.asGrid();
    if (places) this.asNodes(picture.kind === "pairs" ? places.map((_, at) => this.node(at)) : this.buttons);
    this.element.addEventListener("keydown", (event) => this.moved(event));
  }

  button(at) {
    const button = make("button", "cell", undefined, { type: "button", tabindex: at === 0 ? "0" : "-1" });
    for (const part of ["token", "pencil", "mark"]) button.append(make("span", part, ""));
    button.addEventListener("focus", () => this.choose(at));
    button.addEventListener("click", () => this.choose(at));
    this.element.append(button);
    return button;
  }

  node(at) {
    const node = make("span", "cell", String(at + 1), { "aria-hidden": "true" });
    this.element.append(node);
    return node;
  }

  asGrid() {
    const { columns, box } = this.picture;
    this.element.style.setProperty("--columns", columns);
    this.buttons.forEach((button, at) => {
      const row = Math.floor(at / columns), column = at % columns;
      button.classList.toggle("wall-right", column % box === box - 1 && column < columns - 1);
      button.classList.toggle("wall-below", row % box === box - 1 && row < columns - 1);
    });
    this.walls = this.buttons.map((button) => button.className.replace("cell", ""));
  }

  asNodes(elements) {
    this.element.style.setProperty("--size", `${Math.min(12, Math.max(3, 36 / Math.sqrt(elements.length)))}cqw`);
    elements.forEach((element, at) => {
      element.style.left = `${this.places[at][0]}%`;
      element.style.top = `${this.places[at][1]}%`;
    });
  }

  drawEdges() {
    const svg = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ viewBox: "0 0 100 100", "aria-hidden": "true" })) svg.setAttribute(name, value);
    this.arrow = `arrow-${boards++}`;
    const defs = document.createElementNS(SVG, "defs"), marker = document.createElementNS(SVG, "marker");
    const shape = { id: this.arrow, viewBox: "0 0 6 6", refX: 5, refY: 3, markerWidth: 4, markerHeight: 4, orient: "auto" };
    for (const [name, value] of Object.entries(shape)) marker.setAttribute(name, value);
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", "M0 0L6 3L0 6z");
    marker.append(path);
    defs.append(marker);
    const edges = this.picture.edges ?? [];
    this.edges = edges.map(([a, b]) => line(this.places[a], this.places[b], "edge"));
    this.above = document.createElementNS(SVG, "g");
    if (edges.length > 3 * this.places.length) this.element.style.setProperty("--thin", 0.15);
    svg.append(defs, ...this.edges, this.above);
    this.element.append(svg);
  }

  name(at) {
    const { kind, columns } = this.picture;
    if (kind === "grid") return `row ${Math.floor(at / columns) + 1}, column ${(at % columns) + 1}`;
    return kind === "row" ? `position ${at + 1}` : `node ${at + 1}`;
  }

  choose(at) {
    this.buttons.forEach((button, other) => button.setAttribute("tabindex", other === at ? "0" : "-1"));
    this.chosen = at;
    this.tell();
  }

  tell() {
    if (this.chosen !== null) this.selected(cellLine(this.name(this.chosen), this.shown[this.chosen]));
  }

  // Arrow keys move within the board, so that it is one stop of the Tab key.
  moved(event) {
    const at = this.buttons.indexOf(document.activeElement), down = this.picture.columns ?? 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -down, ArrowDown: down, Home: -at, End: this.buttons.length - 1 - at };
    const to = this.buttons[at + steps[event.key]];
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    to?.focus();
  }

  update(cells) {
    this.shown = cells;
    this.buttons.forEach((button, at) => this.show(button, cells[at], at));
    const { kind } = this.picture;
    if (kind === "nodes") this.sameEnds(cells);
    if (kind === "steps") this.above.replaceChildren(...this.steps(cells));
    if (kind === "pairs") this.above.replaceChildren(...this.joined(cells));
    this.tell();
  }

  show(button, cell, at) {
    const [token, pencil, mark] = button.children, { kind } = this.picture;
    const several = cell.alive !== null && cell.alive.length > 1;
    const forms = [cell.kind || "later", cell.broken ? "broken" : "", several ? "several" : "", this.walls?.[at] ?? ""];
    const clue = this.picture.clues !== undefined && !several && cell.token >= this.picture.clues;
    button.className = `cell ${forms.join(" ")}${clue ? " clue" : ""}`;
    button.style.setProperty("--shade", cell.entropy === null ? 0 : 1 - Math.exp(-cell.entropy));
    if (kind === "nodes") button.dataset.color = cell.text === "" ? "" : (cell.token - this.picture.first) % 8;
    token.textContent = kind === "steps" ? String(at + 1) : several ? "" : visible(cell.text);
    const marks = several && kind !== "steps" ? cell.alive : [];
    token.style.fontSize = token.textContent.length > 2 && kind !== "row" ? `${2 / token.textContent.length}em` : "";
    pencil.style.setProperty("--across", Math.max(3, Math.ceil(Math.sqrt(marks.length))));
    pencil.replaceChildren(...marks.map((one) => make("span", "", visible(one))));
    mark.textContent = (cell.broken ? "!" : "") + (cell.conflict ? "×" : "") + (several ? "" : MARKS[cell.kind] ?? "");
    button.setAttribute("aria-label", cellLine(this.name(at), cell) + (clue ? ", read as a clue" : ""));
  }

  // Nodes that an edge joins should differ.
  sameEnds(cells) {
    this.picture.edges.forEach(([a, b], at) => {
      const same = cells[a].text !== "" && cells[a].token === cells[b].token && cells[a].broken && cells[b].broken;
      this.edges[at].setAttribute("class", same ? "edge same" : "edge");
      if (same) this.above.before(this.edges[at]); // above the other edges
    });
  }

  // An arrow from each node to the one that follows, shortened so that the node does not hide its head.
  steps(cells) {
    return cells.flatMap((cell, at) => {
      const from = this.places[at], to = this.places[cell.token - this.picture.first];
      if (!to || to === from || cell.kind === "") return [];
      const away = Math.hypot(to[0] - from[0], to[1] - from[1]), room = Math.max(0, 1 - 4 / away);
      const end = [from[0] + (to[0] - from[0]) * room, from[1] + (to[1] - from[1]) * room];
      return [line(from, end, this.lineClass(cell), { "marker-end": `url(#${this.arrow})` })];
    });
  }

  joined(cells) {
    return cells.flatMap((cell, at) => {
      const pattern = cell.token - this.picture.first;
      const pairs = pattern < 0 || cell.kind === "" ? [] : this.picture.pairs[at].filter((_, bit) => (pattern >> bit) & 1);
      const sure = { "stroke-opacity": cell.entropy === null ? 1 : 0.3 + 0.7 * Math.exp(-cell.entropy) };
      return pairs.map(([a, b]) => line(this.places[a], this.places[b], this.lineClass(cell), sure));
    });
  }

  lineClass(cell) {
    return `step ${cell.kind} ${cell.broken ? "broken" : ""}`;
  }
}
