"use strict";
(() => {
  const PAGE = 100;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const body = byId("list").querySelector("tbody");
  const chosen = new Set(["learned", "lost"]);
  let matches = [];
  let shown = 0;

  const option = (select, value, text) => {
    const element = document.createElement("option");
    element.value = value;
    element.textContent = text;
    select.append(element);
  };
  const cell = (row, text, name) => {
    const element = row.insertCell();
    element.textContent = text;
    if (name) element.className = name;
  };

  function select() {
    const words = byId("search").value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    const group = byId("group").value;
    const only = byId("run").value;
    matches = [];
    data.questions.forEach((question, index) => {
      if (group && question[0] !== group) return;
      data.runs.forEach((run, number) => {
        const answer = run.answers[index];
        if (!answer || (only !== "" && Number(only) !== number)) return;
        if (!chosen.has(data.outcomes[answer[1]])) return;
        const text = [question[1], question[2], question[3], answer[0]].join("\n").toLocaleLowerCase();
        if (words.every((word) => text.includes(word))) matches.push([question, answer, run]);
      });
    });
    body.replaceChildren();
    shown = 0;
    more();
  }

  function more() {
    for (const [question, answer, run] of matches.slice(shown, shown + PAGE)) {
      const row = body.insertRow();
      const outcome = data.outcomes[answer[1]];
      cell(row, outcome, "outcome " + outcome);
      cell(row, question[1]);
      cell(row, question[2]);
      cell(row, question[3]);
      cell(row, answer[0]);
      const known = (value) => (value === null ? "–" : value.toFixed(2));
      cell(row, known(question[4]) + " → " + known(answer[2]), "number");
      cell(row, question[0]);
      cell(row, run.label);
    }
    shown = Math.min(shown + PAGE, matches.length);
    byId("more").hidden = shown >= matches.length;
    byId("count").textContent = matches.length
      ? `${matches.length} match, ${shown} shown.`
      : "No fact matches; choose more outcomes or search for less.";
  }

  for (const group of new Set(data.questions.map((question) => question[0]))) option(byId("group"), group, group);
  data.runs.forEach((run, number) => option(byId("run"), String(number), run.label));
  byId("run-label").hidden = data.runs.length < 2;
  for (const outcome of data.outcomes) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = chosen.has(outcome);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(outcome);
      else chosen.delete(outcome);
      select();
    });
    label.append(box, outcome);
    byId("outcomes").append(label);
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", select);
  byId("group").addEventListener("change", select);
  byId("run").addEventListener("change", select);
  byId("more").addEventListener("click", more);
  byId("filters").hidden = false;
  byId("list").hidden = false;

  const root = document.documentElement;
  const theme = byId("theme");
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  theme.hidden = false;
  name();
  select();
})();
