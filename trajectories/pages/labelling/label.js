"use strict";
(() => {
  // Everything that the server tells was written by models, tools and people: it enters the page through textContent only.
  const byId = (id) => document.getElementById(id);
  const said = byId("said"), note = byId("note"), notes = byId("notes"), sides = byId("sides"), task = byId("task");
  const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 0: "tie", "=": "tie", t: "tie", b: "bad", s: "skip", u: "undo", n: "note" };
  const WORDS = { left: "Saved: 1 is better.", right: "Saved: 2 is better.", tie: "Saved: no difference.", bad: "Saved: bad task.", skip: "Skipped; it comes again at the end." };
  let state = null, busy = false;

  function el(tag, cls, text) {
    const node = document.createElement(tag);
    if (cls) node.className = cls;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  function chips(parent, items) {
    const row = el("div", "chips");
    for (const [text, cls] of items) if (text) row.append(el("span", "chip " + (cls || "plain"), text));
    if (row.childNodes.length) parent.append(row);
  }
  function message(parent, m) {
    const box = el(m.role === "system" ? "details" : "div", "said");
    box.append(el(m.role === "system" ? "summary" : "span", "who", m.role), el("pre", "prose", m.text));
    parent.append(box);
  }
  function turnOf(parent, turn, number) {
    const box = el("div", "said assistant");
    box.append(el("span", "who", "assistant, turn " + number));
    if (turn.text) box.append(el("pre", "prose", turn.text));
    if (!turn.text && !turn.calls.length) box.append(el("p", "note", "(said nothing)"));
    for (const call of turn.calls) {
      const frame = el("div", "call"), head = el("div");
      head.append(el("b", "", call.name));
      if (call.unparsed) chips(head, [["\u2717 could not be parsed: " + call.unparsed, "bad"]]);
      if (call.arguments !== "{}") head.append(el("pre", "", call.arguments));
      const body = el("div", "result"), r = call.result;
      if (r) {
        chips(body, [[(r.ok ? "\u2713 " : "\u2717 ") + r.outcome, r.ok ? "good" : "bad"], [r.fault && "\u26a1 injected fault: " + r.fault, "warn"],
          [r.effect, r.effect === "not carried out" ? "plain" : "warn"]]);
        body.append(el("pre", "", r.text || "(empty)"));
      } else {
        chips(body, [["no result: the episode ended first", "warn"]]);
      }
      frame.append(head, body);
      box.append(frame);
    }
    parent.append(box);
    for (const m of turn.after) message(parent, m);
  }
  const turns = (n) => n + (n === 1 ? " turn" : " turns");

  function drawSide(side, i, from) {
    const box = el("article", "side-of"), head = el("h3");
    box.setAttribute("aria-label", "Episode " + (i + 1));
    head.append(el("b", "", String(i + 1)), el("small", "", [side.agent, turns(side.count), side.verdict].filter(Boolean).join(" \u00b7 ")));
    box.append(head);
    for (const m of side.prompt) message(box, m);
    side.turns.forEach((turn, k) => turnOf(box, turn, from + k + 1));
    box.append(el("p", "ended", (side.turns.length ? "" : "Nothing after these turns. ") + "Ended: " + side.stop));
    return box;
  }
  function drawTask(shown) {
    task.replaceChildren(el("h2", "", shown.task));
    task.append(el("p", "note mono", [shown.env, shown.faults && "faults: " + shown.faults].filter(Boolean).join(" \u00b7 ")));
    const before = shown.prompt.filter((m) => !(m.role === "user" && m.text === shown.task));
    if (before.length) {
      const box = el("details");
      box.append(el("summary", "", "What both were told"));
      for (const m of before) {
        const one = el("div", "said");
        one.append(el("span", "who", m.role), el("pre", "prose", m.text));
        box.append(one);
      }
      task.append(box);
    }
    if (shown.same.length) {
      const box = el("details");
      box.append(el("summary", "", "Both begin alike: " + turns(shown.same.length)));
      shown.same.forEach((turn, k) => turnOf(box, turn, k + 1));
      task.append(box);
    }
  }
  const number = (value) => (value === null ? "\u2013" : value.toFixed(2).replace("-", "\u2212"));

  function table(heads, rows) {
    const out = el("table"), top = el("tr"), body = el("tbody"), head = el("thead");
    for (const text of heads) top.append(el("th", "", text));
    for (const row of rows) {
      const tr = el("tr");
      row.forEach((text, i) => {
        const cell = el(i ? "td" : "th");
        if (i) cell.dataset.label = heads[i];
        cell.append(el("div", "", text));
        tr.append(cell);
      });
      body.append(tr);
    }
    head.append(top);
    out.append(head, body);
    return out;
  }
  function drawAgreement(a) {
    const box = byId("figures");
    box.replaceChildren();
    if (a.labellers.length) box.append(table(["labeller", "labels"], a.labellers.map(([name, n]) => [name, String(n)])));
    if (!a.pairs) {
      box.append(el("p", "note", "No two labellers have labelled the same pair yet."));
      return;
    }
    const [low, high] = a.interval;
    const interval = low === null ? "" : " (95% interval " + number(low) + " to " + number(high) + ")";
    box.append(el("p", "", "Over " + a.pairs + (a.pairs === 1 ? " pair" : " pairs") + " with two labels or more: the same answer on " + Math.round(100 * a.same)
      + "%, Krippendorff\u2019s alpha " + number(a.alpha) + interval + "."));
    box.append(table(["labellers", "Cohen\u2019s kappa", "pairs"], a.kappa.map(([x, y, k, n]) => [x + ", " + y, number(k), String(n)])));
    box.append(el("p", "note", "1 is full agreement, 0 what chance would give. No figure where all answers are the same: then nothing was measured."));
  }
  function draw(next, words) {
    state = next;
    const { shown, done, total } = next;
    byId("bar").max = total;
    byId("bar").value = done;
    byId("where").textContent = done + " of " + total + (next.skipped ? ", " + next.skipped + " skipped" : "") + " \u00b7 " + next.labeller;
    byId("answers").hidden = false;
    const end = byId("done");
    end.hidden = Boolean(shown);
    sides.hidden = task.hidden = !shown;
    end.replaceChildren();
    if (shown) {
      drawTask(shown);
      sides.replaceChildren(...shown.sides.map((side, i) => drawSide(side, i, shown.same.length)));
    } else {
      end.append(el("h2", "", "All done"), el("p", "", "Every pair has your label. They are saved; you can close this page, and end the command with Ctrl-C."));
    }
    if (shown || byId("agreement").open) agree();
    else byId("agreement").open = true; // which asks for it
    note.value = next.note || "";
    notes.hidden = !note.value;
    tell(next.said || words || "");
    for (const button of document.querySelectorAll("[data-answer]")) button.disabled = button.dataset.answer === "undo" ? !next.undo : !shown;
    window.scrollTo(0, 0);
  }
  function agree() {
    if (byId("agreement").open) ask("agreement").then(drawAgreement, () => {});
  }
  byId("agreement").addEventListener("toggle", agree);
  function tell(text, wrong) {
    said.textContent = text;
    said.className = wrong ? "bad" : "";
  }
  async function ask(what, body) {
    const answer = await fetch(what, body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error || "the server refused");
    return found;
  }
  async function act(answer) {
    if (busy || !state) return;
    if (answer === "note") {
      if (!state.shown) return;
      notes.hidden = false;
      note.focus();
      return;
    }
    if (answer === "undo" ? !state.undo : !state.shown) return;
    busy = true; // a second key before the disk has the first answer would be about what was not seen
    document.body.setAttribute("aria-busy", "true");
    try {
      if (answer === "undo") draw(await ask("undo", {}), "Taken back.");
      else if (answer === "skip") draw(await ask("skip", { shown: state.shown.id }), WORDS.skip);
      else draw(await ask("label", { shown: state.shown.id, label: answer, note: note.value }), WORDS[answer]);
      byId("main").focus({ preventScroll: true });
    } catch (error) {
      tell(error instanceof TypeError ? "Not saved: the command that serves this page has ended." : String(error.message), true);
    } finally {
      busy = false;
      document.body.removeAttribute("aria-busy");
    }
  }
  for (const button of document.querySelectorAll("[data-answer]")) button.addEventListener("click", () => act(button.dataset.answer));
  document.addEventListener("keydown", (event) => {
    if (event.target === note) {
      if (event.key === "Escape") {
        event.preventDefault();
        byId("main").focus({ preventScroll: true });
        if (!note.value) notes.hidden = true;
      }
      return;
    }
    const answer = KEYS[event.key];
    if (event.key.startsWith("Arrow") && event.target.closest("pre")) return; // it scrolls there
    if (!answer || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act(answer);
  });
  ask("state").then((found) => draw(found), () => { byId("answers").hidden = false; tell("The command that serves this page has ended.", true); });
})();
