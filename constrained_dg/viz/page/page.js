// The page: controls, one lane for each sampler, and the line that says what happens.

const by = (id) => document.getElementById(id);

class LaneView {
  constructor(lane) {
    this.lane = lane;
    const { run, problem } = lane;
    this.element = make("article", "lane", undefined, { "aria-label": run.sampler });
    this.line = make("p", "line");
    this.detail = make("p", "detail", "Choose a cell to read what is known of it.");
    this.sentences = make("ul", "sentences", undefined, { tabindex: "0", "aria-label": "What breaks a rule" });
    this.verdict = make("p", "verdict");
    this.board = new Board(run.picture, problem.best.length, `Canvas of ${run.sampler}`, (text) => {
      this.detail.textContent = text;
    });
    if (run.picture.kind === "pairs") this.detail.hidden = true;
    if (run.picture.photo) this.element.append(make("img", "photo", undefined, { src: run.picture.photo, alt: "The picture that was read" }));
    this.element.append(make("h2", "", run.sampler), make("p", "kind", KINDS[run.kind] ?? run.kind), this.line,
      this.board.element, this.detail, this.verdict, this.sentences);
    if (run.as_in_report === false) {
      this.element.append(make("p", "note", "In the report's batch this answer differs: sums were rounded in another order."));
    }
  }

  update(at) {
    const moment = this.lane.moment(at);
    this.board.update(this.lane.cells(moment));
    const { passes, answer } = this.lane;
    this.line.replaceChildren(make("strong", "", moment.name), `: ${moment.line}`);
    if (moment.answer && answer.passes > passes.length && this.lane.run.kind !== "search") {
      this.line.append(`; ${count(passes.length, "pass is", "passes are")} shown`);
    }
    this.verdict.textContent = moment.by ?? "";
    this.sentences.replaceChildren(...moment.sentences.map((sentence) => make("li", "", sentence)));
    this.sentences.hidden = moment.sentences.length === 0;
    return `${this.lane.run.sampler}, ${moment.name}: ${moment.line}`;
  }
}

let views = [];
const player = new Player(changed);
const SAID = { run: "Running", pause: "Paused", end: "At the end", reset: "Back at the problem" };

function changed(why) {
  if (why === "load") {
    views = player.lanes.map((lane) => new LaneView(lane));
    by("lanes").replaceChildren(...views.map((view) => view.element));
  }
  const lines = views.map((view) => view.update(player.at));
  Object.assign(by("scrub"), { max: player.last, value: player.at });
  const where = player.at === 0 ? "problem" : `${player.at} of ${player.last}`;
  by("where").textContent = where;
  by("scrub").setAttribute("aria-valuetext", where);
  by("run").disabled = player.running;
  by("pause").disabled = !player.running;
  by("back").disabled = player.at === 0;
  by("step").disabled = player.at >= player.last;
  // A reader of screens hears what a person asks for, not each pass of a run.
  if (why !== "play" && why !== "more") by("status").textContent = [SAID[why], ...(why === "run" ? [] : lines)].filter(Boolean).join(". ");
}

function legend() {
  const signs = [["given", "5", "", "given"], ["accepted", "5", "", "accepted in this pass"], ["renoised", "5", "~", "re-noised: a guess"],
    ["finished", "5", "", "answer, or an earlier canvas"], ["finished clue", "5", "", "read as a clue in a picture"], ["answer broken", "5", "!", "takes part in a broken rule"],
    ["searched", "5", "◆", "written by the search"], ["renoised", "", "", "living tokens of a set", "257"],
    ["renoised", "5", "~×", "no token is possible"]];
  for (const [kind, token, mark, meaning, alive] of signs) {
    const cell = make("span", `cell ${kind}`, undefined, { "aria-hidden": "true" });
    cell.append(make("span", "token", token), make("span", "pencil"), make("span", "mark", mark));
    cell.children[1].style.setProperty("--across", 3);
    cell.children[1].append(...Array.from(alive ?? "", (one) => make("span", "", one)));
    by("legend").append(make("li", "", meaning));
    by("legend").lastChild.prepend(cell);
  }
  const shades = make("li", "", "darker: less certain (entropy 0, 0.7 and 2 nats)");
  for (const entropy of [2, 0.7, 0]) {
    const cell = make("span", "cell answer", undefined, { "aria-hidden": "true" });
    cell.style.setProperty("--shade", 1 - Math.exp(-entropy));
    shades.prepend(cell);
  }
  by("legend").append(shades, make("li", "", "edges and arrows are solid, dotted, dashed or red as these frames are"));
}

// What the buttons do; a page that asks a server has its own ways to run and to reset.
function controls(run, reset) {
  const speed = () => { player.perSecond = Number(by("speed").value); };
  by("speed").addEventListener("change", speed);
  by("run").addEventListener("click", run);
  by("pause").addEventListener("click", () => { player.pause(); by("run").focus(); });
  by("back").addEventListener("click", () => player.step(-1));
  by("step").addEventListener("click", () => player.step(1));
  by("reset").addEventListener("click", reset);
  by("scrub").addEventListener("input", () => { player.stop(); player.seek(Number(by("scrub").value)); });
  legend();
  speed();
}

function play() {
  player.go();
  by("pause").focus();
}
