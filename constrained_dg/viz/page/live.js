// The page that a server serves: asks for answers, and shows their passes as they stream in.

const FIELDS = [["problem", "problem"], ["seed", "seed"], ["sampler", "samplers"], ["model", "samplers"], ["messages", "prompt"],
  ["response_format", "rule"], ["max_tokens", "prompt"], ["Authorization", "key"]];
let models = [], asking = null, drawing = null;

class Refusal extends Error {
  constructor(error) {
    super(error.message);
    this.param = error.param ?? "";
  }
}

function headers() {
  return { "Content-Type": "application/json", ...(by("key").value ? { Authorization: `Bearer ${by("key").value}` } : {}) };
}

async function checked(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Refusal(body.error ?? { message: `the server answered with status ${response.status}` });
}

// A refusal stands where the mistake was made.
function wrong(error) {
  const where = FIELDS.find(([name]) => (error.param ?? "").startsWith(name))?.[1] ?? "run";
  const shown = where === "rule" && by("rule").hidden ? "prompt" : where;
  if (shown === "key") by("key-field").hidden = false;
  by(`${shown}-wrong`).textContent = error.message;
  const field = shown === "problem" && by(shown).hidden ? by("picture") : by(shown);
  if (shown !== "run") field.setAttribute("aria-invalid", "true");
  field?.focus();
}

function clearWrong() {
  document.querySelectorAll(".wrong").forEach((element) => { element.textContent = ""; });
  document.querySelectorAll("[aria-invalid]").forEach((element) => element.removeAttribute("aria-invalid"));
}

// Events of a stream: [name, values]. Chunks of texts name what they hold, and ordinary ones are passed over.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (!data || data === "[DONE]") continue;
      const values = JSON.parse(data), name = /^event: (.*)$/m.exec(block)?.[1];
      const part = ["problem", "draft", "answer", "error"].find((each) => values[each] !== undefined);
      if (name && name !== "error") yield [name, values];
      else if (part) yield [part, values[part]];
    }
  }
}

function body(model, sampler) {
  const seed = by("seed").value.trim(), number = /^\d+$/.test(seed) ? Number(seed) : seed;
  const common = { model: model.id, sampler, seed: number, stream: true };
  if (by("mode").value === "solve") return ["v1/solve", { ...common, problem: by("problem").value }];
  const kind = by("format").value, rule = by("rule").value, more = {};
  if (kind === "regex") more.response_format = { type: kind, pattern: rule };
  if (kind === "json_schema") {
    try {
      more.response_format = { type: kind, json_schema: { name: "answer", schema: JSON.parse(rule) } };
    } catch (error) {
      throw new Refusal({ message: `the schema is not JSON (${error.message})`, param: "response_format" });
    }
  }
  const messages = [{ role: "user", content: by("prompt").value }];
  return ["v1/chat/completions", { ...common, ...more, messages, drafts: true }];
}

// A lane that has its problem, and the events that follow.
async function begun(model, sampler, signal) {
  const [path, asked] = body(model, sampler);
  const response = await checked(await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(asked), signal }));
  const coming = events(response), { value } = await coming.next();
  if (!value || value[0] !== "problem") throw new Refusal(value?.[1] ?? { message: "the server ended the answer" });
  const problem = value[1], name = models.length > 1 ? `${sampler}, ${model.id}` : sampler;
  return { lane: new Lane(problem, { sampler: name, kind: problem.kind, picture: problem.picture }), coming };
}

async function follow(lane, coming, signal) {
  try {
    for await (const [name, values] of coming) {
      Object.assign(lane.problem.labels, values.labels);
      if (name === "draft") lane.passes.push(values);
      else if (name === "answer") lane.answer = values;
      else lane.fail(`refused: ${values.message}`);
      player.more();
    }
    if (!lane.answer) lane.fail("the server ended the answer");
  } catch (error) {
    if (signal.aborted) return;
    lane.fail(`the connection broke: ${error.message}`);
  }
  player.more();
}

function chosen() {
  const boxes = [...document.querySelectorAll("#samplers input:checked")];
  return boxes.map((box) => [models[box.dataset.model], box.value]);
}

async function ask() {
  forget();
  clearWrong();
  const mine = new AbortController();
  asking = mine;
  by("text").textContent = "Asking the server…";
  try {
    if (!chosen().length) throw new Refusal({ message: "no sampler is chosen; choose at least one", param: "sampler" });
    const all = await Promise.all(chosen().map(([model, sampler]) => begun(model, sampler, mine.signal)));
    if (mine.signal.aborted) return;
    by("text").textContent = "";
    player.load(all.map(({ lane }) => lane), true);
    all.forEach(({ lane, coming }) => follow(lane, coming, mine.signal));
    play();
  } catch (error) {
    if (mine.signal.aborted) return;
    forget();
    wrong(error instanceof Refusal ? error : { message: `the server cannot be reached (${error.message})` });
  }
}

// Gives up what runs, so that it costs no more passes.
function forget() {
  asking?.abort();
  asking = null;
  by("text").textContent = "";
  player.load([]);
}

// Run asks, and afterwards plays what came; Reset gives up what runs, and the next Run asks again.
function run() {
  if (asking && player.lanes.length) play();
  else ask();
}

function reset() {
  const lanes = player.lanes.map((lane) => new Lane(lane.problem, lane.run));
  forget();
  player.load(lanes);
  player.reset();
}

function modeChanged() {
  const solve = by("mode").value === "solve";
  by("solve-field").hidden = !solve;
  by("text-field").hidden = solve;
}

function formatChanged() {
  by("rule").hidden = by("format").value === "";
}

function samplerBoxes() {
  models.forEach((model, index) => {
    const shown = 4, boxes = model.samplers.map((name, at) => {
      const label = make("label", "choice"), box = make("input", "", undefined, { type: "checkbox", value: name, "data-model": index });
      box.checked = at === 0;
      label.append(box, make("span", "", name));
      return label;
    });
    if (models.length > 1) by("samplers").append(make("p", "kind", `Model ${model.id}`));
    by("samplers").append(...boxes.slice(0, shown));
    if (boxes.length > shown) {
      const others = make("details");
      others.append(make("summary", "", `${boxes.length - shown} others`), ...boxes.slice(shown));
      by("samplers").append(others);
    }
  });
}

function drawProblem(asks) {
  const write = (text) => { by("problem").value = text; edited(); };
  if (asks.kind === "grid") drawing = new GridInput(asks, write);
  if (asks.kind === "graph") drawing = new GraphInput(asks, write);
  if (asks.kind === "picture") drawing = new PictureInput(asks, write, (message) => wrong({ param: "problem", message }));
  by("as-text").hidden = by("problem").hidden = asks.kind === "picture";
  if (drawing) by("drawing").append(drawing.element);
  by("problem").addEventListener("input", () => drawing?.show(by("problem").value));
  by("example").hidden = !asks.example;
  by("example").addEventListener("click", () => { write(asks.example); drawing?.show(asks.example); });
}

// What is shown belongs to what was asked.
function edited() {
  if (asking || player.lanes.length) forget();
  clearWrong();
}

async function meet() {
  clearWrong();
  try {
    models = (await (await checked(await fetch("v1/models", { headers: headers() }))).json()).data;
  } catch (error) {
    wrong(error instanceof Refusal ? error : { message: `the server cannot be reached (${error.message})` });
    return;
  }
  document.querySelector("h1").textContent = models.map((model) => `${model.id} (${model.task})`).join(" beside ");
  const modes = { solve: "an answer to a problem of the task", text: "an answer to a prompt" };
  const open = Object.keys(modes).filter((mode) => models.every((model) => model[mode]));
  by("mode").replaceChildren(...open.map((mode) => make("option", "", modes[mode], { value: mode })));
  by("mode-field").hidden = open.length < 2;
  samplerBoxes();
  drawProblem(models[0].asks);
  modeChanged();
}

function start() {
  controls(run, reset);
  by("about").hidden = true;
  by("ask").addEventListener("submit", (event) => { event.preventDefault(); run(); });
  by("ask").addEventListener("input", edited);
  by("mode").addEventListener("change", modeChanged);
  by("format").addEventListener("change", formatChanged);
  by("key").addEventListener("change", () => { if (!models.length) meet(); });
  changed("load");
  meet();
}

start();
