// Lanes hold the passes of one sampler on one problem, recorded or as they come; the player moves all lanes together.

class Lane {
  constructor(problem, run) {
    this.problem = problem;
    this.run = run;
    this.given = new Set(problem.given);
    this.passes = [];
    this.answer = null;
  }

  // Of a request that failed: what is there stays.
  fail(message) {
    const best = this.passes.at(-1)?.best ?? this.problem.best;
    this.answer = { error: message, best, violations: [], sentences: [], by: "", changed: [], passes: this.passes.length };
  }

  // Moments: 0 is the problem, 1 to n the passes, then the answer.
  get last() {
    return this.passes.length + (this.answer ? 1 : 0);
  }

  moment(at) {
    const now = Math.min(at, this.last);
    if (now === 0) return { name: "problem", line: "nothing denoised yet", best: this.problem.best, sentences: [] };
    if (now > this.passes.length) {
      const by = AUTHORS[this.answer.by] ?? "";
      return { ...this.answer, name: "answer", line: this.answer.error ?? answerLine(this.answer), by, answer: this.answer };
    }
    const pass = this.passes[now - 1];
    const attempt = pass.attempt > 1 ? `, attempt ${pass.attempt}` : "";
    return { ...pass, name: `pass ${pass.pass}${attempt}`, line: passLine(pass, this.run.kind), pass };
  }

  text(token) {
    return this.problem.labels[token] ?? "";
  }

  // What each position shows at a moment: {text, kind, broken, conflict, entropy, alive, token}.
  cells(moment) {
    const { pass, answer } = moment;
    const broken = new Set(moment.violations ?? []);
    const accepted = new Set(pass?.accepted ?? []), conflicts = new Set(pass?.conflicts ?? []);
    const changed = new Set(answer?.changed ?? []);
    return moment.best.map((token, at) => {
      const cell = { token, text: this.text(token), kind: "", broken: broken.has(at), conflict: conflicts.has(at),
        entropy: null, alive: null };
      if (this.given.has(at)) cell.kind = "given";
      else if (answer?.by === "proof") cell.kind = "";
      else if (answer) cell.kind = answer.by === "completer" && changed.has(at) ? "searched" : "answer";
      else if (pass && at < pass.canvas[0]) cell.kind = "finished";
      else if (pass && at < pass.canvas[1]) {
        cell.kind = accepted.has(at) ? "accepted" : "renoised";
        if (pass.entropy_nats) cell.entropy = pass.entropy_nats[at];
        const alive = pass.sets?.[at] ?? null;
        if (Array.isArray(alive)) cell.alive = alive.map((one) => this.text(one));
        else if (alive !== null) cell.alive = [`${alive} tokens`];
      }
      if (cell.kind === "") cell.text = "";
      return cell;
    });
  }
}

class Player {
  constructor(changed) {
    this.lanes = [];
    this.at = 0;
    this.timer = null;
    this.perSecond = 2;
    this.live = false;
    this.drawing = null;
    this.changed = changed;
  }

  get last() {
    return Math.max(0, ...this.lanes.map((lane) => lane.last));
  }

  get running() {
    return this.timer !== null;
  }

  // A live problem waits at its last pass for further ones instead of pausing.
  load(lanes, live = false) {
    this.stop();
    this.lanes = lanes;
    this.live = live;
    this.at = 0;
    this.changed("load");
  }

  seek(at, why = "seek") {
    this.at = Math.min(Math.max(0, at), this.last);
    this.changed(why);
  }

  go() {
    if (this.running) return;
    if (this.at >= this.last && !this.live) this.at = 0;
    this.tick();
    this.changed("run");
  }

  tick() {
    this.timer = setTimeout(() => {
      if (this.at < this.last) this.seek(this.at + 1, "play");
      if (this.at >= this.last && !this.live) this.pause("end");
      else this.tick();
    }, 1000 / this.perSecond);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
  }

  pause(why = "pause") {
    this.stop();
    this.changed(why);
  }

  step(by) {
    this.stop();
    this.seek(this.at + by, "step");
  }

  reset() {
    this.stop();
    this.seek(0, "reset");
  }

  // Something came in while a model runs. Passes may come faster than the page can draw.
  more() {
    if (this.lanes.every((each) => each.answer)) this.live = false;
    this.drawing ??= setTimeout(() => {
      this.drawing = null;
      this.changed("more");
    }, 30);
  }
}
