// Ways to draw a problem. Each has an `element`, shows a text with show(text), and tells changed(text) what was drawn.

// A square of cells to type into. The text is a line of symbols, and dots for blanks.
class GridInput {
  constructor({ symbols }, changed) {
    this.symbols = symbols;
    this.changed = changed;
    this.size = 0;
    const sizes = [4, 9, 16].filter((size) => size <= symbols.length);
    this.choice = make("select", "", undefined, { "aria-label": "Size of the grid" });
    this.choice.append(...sizes.map((size) => make("option", "", `${size} x ${size}`, { value: String(size) })));
    this.choice.addEventListener("change", () => { this.resize(Number(this.choice.value)); this.tell(); });
    const clear = make("button", "", "Clear", { type: "button" });
    clear.addEventListener("click", () => { this.resize(this.size); this.tell(); });
    const row = make("div", "field");
    row.append(this.choice, clear);
    this.board = make("div", "board grid", undefined, { role: "group", "aria-label": "Given cells" });
    this.board.addEventListener("keydown", (event) => this.moved(event));
    this.element = make("div");
    this.element.append(row, this.board);
    this.resize(9);
  }

  resize(size) {
    this.size = size;
    this.choice.value = String(size);
    this.board.style.setProperty("--columns", size);
    const box = Math.sqrt(size);
    this.cells = Array.from({ length: size * size }, (_, at) => {
      const row = Math.floor(at / size), column = at % size;
      const cell = make("input", "cell", undefined, { "aria-label": `row ${row + 1}, column ${column + 1}`, autocomplete: "off",
        autocapitalize: "characters", inputmode: size > 9 ? "text" : "numeric", tabindex: at ? "-1" : "0" });
      cell.classList.toggle("wall-right", column % box === box - 1 && column < size - 1);
      cell.classList.toggle("wall-below", row % box === box - 1 && row < size - 1);
      cell.addEventListener("focus", () => {
        this.cells.forEach((other) => { other.tabIndex = other === cell ? 0 : -1; });
        cell.select();
      });
      cell.addEventListener("input", () => { this.write(cell, cell.value.slice(-1)); this.tell(); });
      return cell;
    });
    this.board.replaceChildren(...this.cells);
  }

  write(cell, letter) {
    const symbol = letter.toUpperCase();
    cell.value = this.symbols.slice(0, this.size).includes(symbol) ? symbol : "";
    cell.classList.toggle("given", cell.value !== "");
  }

  // Arrow keys move; a cell is one letter, so the caret needs none of them.
  moved(event) {
    const at = this.cells.indexOf(event.target);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.size, ArrowDown: this.size };
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    this.cells[at + steps[event.key]]?.focus();
  }

  tell() {
    this.changed(this.cells.map((cell) => cell.value || ".").join(""));
  }

  show(text) {
    const line = text.replace(/\s/g, ""), size = Math.sqrt(line.length);
    if (![...this.choice.options].some((option) => Number(option.value) === size)) return;
    if (size !== this.size) this.resize(size);
    this.cells.forEach((cell, at) => this.write(cell, line[at]));
  }
}

// Nodes to place and to join. The text is graph6 (McKay), for colorings with the number of colors before it, as in 3:DQc.
const MOST_DRAWN = 62;

function graph6(nodes, joined) {
  const bits = [];
  for (let b = 1; b < nodes; b++) for (let a = 0; a < b; a++) bits.push(joined.has(`${a} ${b}`) ? 1 : 0);
  let text = String.fromCharCode(63 + nodes);
  for (let at = 0; at < bits.length; at += 6) {
    text += String.fromCharCode(63 + [0, 1, 2, 3, 4, 5].reduce((sum, bit) => 2 * sum + (bits[at + bit] ?? 0), 0));
  }
  return text;
}

// {nodes, joined}; null for what is not a graph6 of at most MOST_DRAWN nodes.
function ofGraph6(text) {
  const values = [...text].map((letter) => letter.charCodeAt(0) - 63), nodes = values[0];
  const whole = Math.ceil((nodes * (nodes - 1)) / 12);
  if (!(nodes >= 0 && nodes <= MOST_DRAWN) || values.length !== 1 + whole || values.some((value) => value < 0 || value > 63)) return null;
  const joined = new Set();
  let at = 0;
  for (let b = 1; b < nodes; b++) {
    for (let a = 0; a < b; a++, at++) if ((values[1 + Math.floor(at / 6)] >> (5 - (at % 6))) & 1) joined.add(`${a} ${b}`);
  }
  return { nodes, joined };
}

class GraphInput {
  constructor({ colors }, changed) {
    this.changed = changed;
    this.places = [];
    this.joined = new Set();
    this.first = null;
    const button = (text, action) => {
      const element = make("button", "", text, { type: "button" });
      element.addEventListener("click", () => { action(); this.draw(); this.tell(); });
      return element;
    };
    const row = make("div", "field");
    row.append(button("Add a node", () => this.add(this.free())), button("Remove the chosen node", () => this.remove()),
      button("Clear", () => { this.places = []; this.joined.clear(); this.first = null; }));
    this.colors = make("input", "", undefined, { inputmode: "numeric", size: "3", value: "3", id: "colors" });
    this.colors.addEventListener("input", () => this.tell());
    if (colors) row.append(make("label", "", "Colors", { for: "colors" }), this.colors);
    this.withColors = colors;
    this.said = make("p", "detail", "", { role: "status" });
    this.board = make("div", "board nodes", undefined, { role: "group", "aria-label": "Graph to draw" });
    this.board.addEventListener("click", (event) => {
      if (event.target.closest("button")) return;
      const box = this.board.getBoundingClientRect();
      this.add([(100 * (event.clientX - box.left)) / box.width, (100 * (event.clientY - box.top)) / box.height]);
      this.draw();
      this.tell();
    });
    this.element = make("div");
    this.element.append(row, this.board, this.said);
    this.draw();
  }

  // A place on a circle that no node has yet.
  free() {
    const turn = 2.4 * this.places.length, away = 42 - (this.places.length % 3) * 12;
    return [50 + away * Math.sin(turn), 50 - away * Math.cos(turn)];
  }

  add(place) {
    if (this.places.length < MOST_DRAWN) this.places.push(place);
  }

  remove() {
    const gone = this.first;
    if (gone === null) return;
    this.places.splice(gone, 1);
    const kept = [...this.joined].map((pair) => pair.split(" ").map(Number)).filter((pair) => !pair.includes(gone));
    this.joined = new Set(kept.map((pair) => pair.map((node) => node - (node > gone)).join(" ")));
    this.first = null;
  }

  // The first node chosen and a second one are joined, or parted if they were joined.
  choose(node) {
    if (this.first === null) this.first = node;
    else {
      const pair = [this.first, node].sort((a, b) => a - b).join(" ");
      if (this.first !== node && !this.joined.delete(pair)) this.joined.add(pair);
      this.first = null;
    }
    this.draw();
    this.tell();
    this.board.querySelectorAll("button")[node].focus();
  }

  draw() {
    const svg = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ viewBox: "0 0 100 100", "aria-hidden": "true" })) svg.setAttribute(name, value);
    const pairs = [...this.joined].map((pair) => pair.split(" ").map(Number));
    svg.append(...pairs.map(([a, b]) => line(this.places[a], this.places[b], "edge")));
    const buttons = this.places.map((place, node) => {
      const near = pairs.filter((pair) => pair.includes(node)).map(([a, b]) => (a === node ? b : a) + 1);
      const button = make("button", "cell", String(node + 1), { type: "button", "aria-pressed": String(node === this.first),
        "aria-label": `node ${node + 1}, joined to ${near.sort((a, b) => a - b).join(", ") || "none"}` });
      button.style.left = `${place[0]}%`;
      button.style.top = `${place[1]}%`;
      button.addEventListener("click", () => this.choose(node));
      return button;
    });
    this.board.style.setProperty("--size", `${Math.min(12, Math.max(5, 36 / Math.sqrt(buttons.length || 1)))}cqw`);
    this.board.replaceChildren(svg, ...buttons);
    this.said.textContent = this.first === null
      ? `${count(this.places.length, "node")}, ${count(this.joined.size, "edge")}. Click to add a node; choose two nodes to join or part them.`
      : `Node ${this.first + 1} is chosen. Choose the node to join it to or to part it from.`;
  }

  tell() {
    const colors = this.withColors && this.colors.value.trim() ? `${this.colors.value.trim()}:` : "";
    this.changed(colors + graph6(this.places.length, this.joined));
  }

  show(text) {
    const [, colors, rest] = /^(?:(\d+):)?(.*)$/.exec(text.trim()) ?? [];
    const graph = ofGraph6(rest ?? "");
    if (!graph) return;
    this.colors.value = colors ?? "";
    // A graph that was drawn here keeps its places.
    if (graph.nodes !== this.places.length) {
      this.places = Array.from({ length: graph.nodes }, (_, node) => {
        const turn = (2 * Math.PI * node) / graph.nodes;
        return [50 + 42 * Math.sin(turn), 50 - 42 * Math.cos(turn)];
      });
    }
    this.joined = graph.joined;
    this.first = null;
    this.draw();
  }
}

// A file with a picture. The text is a data: URL; a large picture is made smaller first.
const SIDE_SENT = 1024, BYTES_SENT = 400_000;

class PictureInput {
  constructor(_, changed, failed) {
    this.changed = changed;
    this.failed = failed;
    this.input = make("input", "", undefined, { id: "picture", type: "file", accept: "image/png,image/jpeg,image/webp,image/bmp",
      "aria-describedby": "problem-wrong" });
    this.input.addEventListener("change", () => this.chosen(this.input.files[0]));
    this.element = make("div", "field");
    this.element.append(make("label", "", "Picture of a puzzle; the grid should fill it", { for: "picture" }), this.input);
  }

  async chosen(file) {
    this.changed("");
    if (!file) return;
    try {
      this.changed(file.size > BYTES_SENT ? await this.smaller(file) : await this.whole(file));
    } catch {
      this.failed(`${file.name} is not a picture; choose a PNG or JPEG`);
    }
  }

  whole(file) {
    return new Promise((done, failed) => {
      const reader = new FileReader();
      reader.addEventListener("load", () => done(reader.result));
      reader.addEventListener("error", failed);
      reader.readAsDataURL(file);
    });
  }

  async smaller(file) {
    const image = await createImageBitmap(file), scale = Math.min(1, SIDE_SENT / Math.max(image.width, image.height));
    const canvas = make("canvas", "", undefined, { width: Math.round(image.width * scale), height: Math.round(image.height * scale) });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", 0.9);
  }

  show() {}
}
