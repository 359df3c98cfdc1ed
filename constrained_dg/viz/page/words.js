// Elements, and the sentences of the page. All text becomes text nodes, never markup.

function make(tag, className, text, attributes = {}) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function count(number, one, many = one + "s") {
  return `${number} ${number === 1 ? one : many}`;
}

// White space of a token, made visible.
function visible(text) {
  return text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "␣");
}

const AUTHORS = {
  passes: "The answer is that of the last pass.",
  "earlier attempt": "The answer is that of an earlier attempt.",
  completer: "A search completed the answer: what is dashed and green is its part, not the model's.",
  candidate: "The answer is that of another candidate.",
  proof: "Proved: no answer agrees with what is given.",
  noise: "Nothing was found; the cells hold noise.",
};
const KINDS = {
  canvas: "diffusion: a pass denoises the whole canvas",
  "left to right": "autoregressive: a pass writes one token",
  search: "search alone: no pass",
};

// What a pass did, in a line.
function passLine(pass, kind) {
  const at = pass.canvas[0] + 1;
  const written = pass.accepted.length ? `wrote token ${at}` : `token ${at} is given`;
  const parts = kind === "left to right" ? [written] : [`${pass.accepted.length} accepted`, `${pass.renoised.length} re-noised`];
  if (pass.conflicts.length) parts.push(`${count(pass.conflicts.length, "position")} without a token that is possible`);
  if (pass.judged !== null) parts.push(pass.judged ? `${count(pass.violations.length, "breaks a rule", "break a rule")}` : "not judged yet");
  if (pass.mean_entropy_nats !== null) parts.push(`mean entropy ${pass.mean_entropy_nats.toFixed(2)} nats`);
  return parts.join(", ");
}

function answerLine(answer) {
  const parts = [answer.status, count(answer.passes, "pass", "passes")];
  if (answer.passes) parts.push(`${answer.tokens_per_pass.toFixed(2)} tokens a pass`);
  if (answer.search_nodes) parts.push(count(answer.search_nodes, "search branch", "search branches"));
  return parts.join(", ");
}

// What is known of one position, for a reader of screens and for the line below the board.
function cellLine(name, cell) {
  const parts = [cell.text === "" ? "empty" : visible(cell.text)];
  if (cell.kind) parts.push({ given: "given", accepted: "accepted", renoised: "re-noised, a guess", finished: "finished",
    searched: "written by the search", answer: "answer" }[cell.kind]);
  if (cell.broken) parts.push("breaks a rule");
  if (cell.conflict) parts.push("no token is possible");
  if (cell.alive !== null && cell.alive.length !== 1) parts.push(`possible: ${cell.alive.join(" ") || "none"}`);
  if (cell.entropy !== null && cell.kind !== "given") parts.push(`entropy ${cell.entropy.toFixed(2)} nats`);
  return `${name}: ${parts.join(", ")}`;
}
