// The page that replays what it holds.

function short(text) {
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

function replay(problem) {
  const lanes = problem.runs.map((run) => new Lane(problem, run));
  lanes.forEach((lane, at) => {
    lane.passes = problem.runs[at].passes;
    lane.answer = problem.runs[at].answer;
  });
  player.load(lanes);
  by("text").replaceChildren(make("span", "", `${problem.tier}: `), make("code", "", problem.text));
}

function start() {
  const data = JSON.parse(by("data").textContent);
  by("notes").replaceChildren(...data.notes.map((note) => make("li", "", note)));
  by("problem").replaceChildren(...data.problems.map((problem, at) =>
    make("option", "", `${at + 1}. ${problem.tier}: ${short(problem.text)}`, { value: String(at) })));
  by("problem").addEventListener("change", () => replay(data.problems[by("problem").value]));
  controls(play, () => player.reset());
  if (data.problems.length) replay(data.problems[0]);
}

start();
