"use strict";
// The episode viewer of the report and of the live page. Whatever an episode holds was written by models and tools: it
// enters the page through textContent only. `embed.py` says what the lines are.
(() => {
  const byId = (id) => document.getElementById(id);
  const list = byId("list"), pool = byId("pool"), pane = byId("episode"), count = byId("count"), search = byId("search");
  const arm = byId("arm"), condition = byId("condition"), verdict = byId("verdict"), fault = byId("fault"), order = byId("order");
  const live = document.body.dataset.live !== undefined;
  const MARK = [["\u2717", "failure", "bad"], ["\u2713", "success", "good"], ["?", "not judged", "warn"]];
  // Where a head holds what.
  const ARM = 0, CONDITION = 1, VERDICT = 2, ABOUT = 3, TURNS = 4, OPTIMUM = 5, FAULTS = 6, REWARD = 7, ID = 8, ATTEMPT = 9, FORK = 10, SAMPLED = 11;
  const SLICE = 8;  // milliseconds of work between two chances for the browser to answer the reader

  let heads = [], bodies = [], streams = [], hay = [], prompts = [], words = new Map(), byName = new Map(), children = new Map();
  let shown = [], at = -1, open = -1, asTokens = false;

  function el(tag, cls, text) {
    const node = document.createElement(tag);
    if (cls) node.className = cls;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  const many = (n, one) => n.toLocaleString("en") + " " + one + (n === 1 ? "" : "s");
  const breath = () => new Promise((go) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { port1.close(); go(); };
    port2.postMessage(0);
  });

  // ---- lines in

  function take(lines) {
    for (const line of lines) {
      if (line[0] === "=") prompts.push(JSON.parse(line.slice(1)));
      else if (line[0] === "+") for (const [id, text] of JSON.parse(line.slice(1))) words.set(id, text);
      else if (line) {
        const [head, body, stream] = line.split("\t"), i = heads.length;
        heads.push(JSON.parse(head)); bodies.push(body); streams.push(stream);
        hay.push("");
        offer(arm, heads[i][ARM]); offer(condition, heads[i][CONDITION]); heads[i][FAULTS].forEach((f) => offer(fault, f));
        const name = heads[i][ID];
        if (!byName.has(name)) byName.set(name, []);
        byName.get(name).push(i);
        if (heads[i][FORK]) {
          const parent = heads[i][FORK][0];
          if (!children.has(parent)) children.set(parent, []);
          children.get(parent).push(i);
        }
      }
    }
  }
  function offer(select, value) {
    if ((select.known ??= new Set()).has(value)) return;
    select.known.add(value);
    const option = el("option", "", value);
    option.value = value;
    select.append(option);
  }
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  }
  async function takeSlowly(lines) {
    let until = performance.now() + SLICE, from = 0;
    for (let i = 0; i < lines.length; i += 16) {
      take(lines.slice(i, i + 16));
      if (performance.now() > until) { await breath(); until = performance.now() + SLICE; }
    }
  }
  async function embedded() {
    const block = byId("data"), chunks = block.textContent.trim().split("\n");
    block.remove();  // its text is megabytes
    for (const chunk of chunks) {
      await takeSlowly((await unpack(chunk)).split("\n"));
      await filter();
      if (open < 0 && shown.length) choose(0);
    }
    document.documentElement.dataset.ready = "";
  }

  // ---- which episodes are shown

  let run = 0;
  async function filter() {
    const mine = ++run, found = [];
    // The text is JSON: what a reader types is looked for as it is written there.
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean).map((w) => JSON.stringify(w).slice(1, -1));
    let until = performance.now() + SLICE;
    for (let i = 0; i < heads.length; i++) {
      if ((i & 15) === 0 && performance.now() > until) {
        await breath();
        if (mine !== run) return;
        until = performance.now() + SLICE;
      }
      const h = heads[i];
      if (arm.value && h[ARM] !== arm.value || condition.value && h[CONDITION] !== condition.value) continue;
      if (verdict.value && h[VERDICT] !== +verdict.value || fault.value && !h[FAULTS].includes(fault.value)) continue;
      if (wanted.length) {
        hay[i] ||= (h[ID] + "\n" + h[ARM] + "\n" + bodies[i]).toLowerCase();
        if (!wanted.every((word) => hay[i].includes(word))) continue;
      }
      found.push(i);
    }
    const by = { worst: (a, b) => heads[a][REWARD] - heads[b][REWARD], best: (a, b) => heads[b][REWARD] - heads[a][REWARD],
      long: (a, b) => heads[b][TURNS] - heads[a][TURNS], newest: (a, b) => b - a }[order.value];
    shown = by ? found.sort((a, b) => by(a, b) || a - b) : found;
    at = shown.indexOf(open);
    count.textContent = shown.length === heads.length ? many(heads.length, "episode")
      : shown.length.toLocaleString("en") + " of " + many(heads.length, "episode");
    pool.style.height = shown.length * rowHeight() + "px";
    paint();
  }
  async function changed() {
    list.scrollTop = 0;
    await filter();
    if (at < 0 && shown.length) choose(0);
    if (!shown.length && heads.length) { open = -1; pane.replaceChildren(el("p", "note", "No episode matches.")); }
  }

  // ---- the list: only the rows in sight are there

  let height = 0;
  function rowHeight() {
    if (!height) {
      const probe = el("div", "row");
      pool.append(probe);
      height = probe.getBoundingClientRect().height || 56;
      probe.remove();
    }
    return height;
  }
  function row(n) {
    const h = heads[shown[n]], [sign, word, tone] = MARK[h[VERDICT]];
    const node = el("div", "row"), mark = el("span", "mark " + tone, sign), about = el("span", "about", h[ABOUT]);
    node.id = "row" + n;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(n === at));
    node.setAttribute("aria-setsize", shown.length);
    node.setAttribute("aria-posinset", n + 1);
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", word);
    node.append(mark, about, el("small", "", [h[ARM], h[CONDITION], many(h[TURNS], "turn"), ...h[FAULTS]].join(" \u00b7 ")));
    node.style.top = n * rowHeight() + "px";
    node.addEventListener("click", () => choose(n));
    return node;
  }
  function paint() {
    const from = Math.max(0, Math.floor(list.scrollTop / rowHeight()) - 4);
    const to = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / rowHeight()) + 4);
    const rows = [];
    for (let n = from; n < to; n++) rows.push(row(n));
    pool.replaceChildren(...rows);
    if (at >= from && at < to) list.setAttribute("aria-activedescendant", "row" + at);
    else list.removeAttribute("aria-activedescendant");
  }
  let waiting = false;
  list.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(); });
  });
  addEventListener("resize", () => { height = 0; pool.style.height = shown.length * rowHeight() + "px"; paint(); });

  function choose(n) {
    if (!shown.length) return;
    at = Math.max(0, Math.min(shown.length - 1, n));
    open = shown[at];
    // Scroll the list alone: the page stays where the reader is.
    const top = at * rowHeight(), bottom = top + rowHeight();
    if (top < list.scrollTop) list.scrollTop = top;
    if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    paint();
    draw();
  }
  async function openEpisode(i) {
    if (!shown.includes(i)) {
      for (const control of [arm, condition, verdict, fault, search]) control.value = "";
      await filter();
    }
    choose(shown.indexOf(i));
  }

  // ---- one episode

  function chips(parent, items) {
    const box = el("div", "chips");
    for (const [text, cls] of items) if (text) box.append(el("span", "chip " + (cls || "plain"), text));
    if (box.childNodes.length) parent.append(box);
  }
  function said(parent, role, text, cls) {
    const box = el(role === "system" ? "details" : "div", "said " + (cls || ""));
    box.append(el(role === "system" ? "summary" : "b", "who", role));
    if (text) box.append(el("pre", "prose", text));
    parent.append(box);
    return box;
  }
  const chance = (cost) => {
    const p = Math.exp(-cost / 1000);
    return p > 0.9995 ? "> 0.999" : p < 0.001 ? "< 0.001" : p.toFixed(3);
  };
  function drawCall(box, [name, args, why, result]) {
    const frame = el("div", "call"), head = el("div", "made");
    head.append(el("b", "", name || "(no name)"));
    if (result && result[5]) head.append(el("span", "note", " " + result[5]));
    if (why) chips(head, [["\u2717 could not be parsed: " + why, "bad"]]);
    if (args !== "{}") head.append(el("pre", "", args));
    frame.append(head);
    const body = el("div", "result");
    if (result) {
      const [ok, outcome, cause, struck, effect, , retry, time, text] = result;
      chips(body, [
        [(ok ? "\u2713 " : "\u2717 ") + outcome, ok ? "good" : "bad"],
        [cause && "cause: " + cause],
        [struck && "\u26a1 injected fault: " + struck, "warn"],
        [effect, effect === "not carried out" ? "plain" : "warn"],
        [retry && "\u21bb retry of " + retry],
        [time],
      ]);
      body.append(el("pre", "", text || "(empty)"));
    } else chips(body, [["no result: the episode ended first", "warn"]]);
    frame.append(body);
    box.append(frame);
  }
  function drawChat(to, prompt, turns) {
    for (const index of prompt) said(to, prompts[index][0], prompts[index][1]);
    turns.forEach(([text, reward, weight, calls, after, least], i) => {
      const box = said(to, "assistant, turn " + (i + 1), text, "assistant" + (weight === 0 ? " masked" : ""));
      const facts = [];
      if (reward) facts.push("reward " + reward);
      if (least.length) facts.push(many(least[0], "token") + ", least likely " + chance(least[1]));
      if (weight === 0) facts.push("weight 0: context, not trained on");
      else if (weight !== 1) facts.push("weight " + weight);
      if (facts.length) box.firstChild.append(el("span", "note", facts.join(" \u00b7 ")));
      calls.forEach((call) => drawCall(box, call));
      after.forEach(([role, words]) => said(to, role, words));
    });
  }
  function drawTokens(to, stream) {
    const [ids, runs, costs] = JSON.parse(stream);
    const box = el("div", "tokens"), readout = el("p", "readout", "Point at a token, or use the left and right arrow keys.");
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Tokens as the engine saw them");
    readout.setAttribute("role", "status");
    const legend = el("p", "note legend", "As the engine saw it. Grey: prompts and observations, not trained on. Sampled tokens by probability:");
    [["p4", "under 0.01"], ["p3", "under 0.1"], ["p2", "under 0.5"], ["p1", "under 0.9"], ["p0", "above"]].forEach(([cls, text]) => legend.append(" ", el("span", "t " + cls, text)));
    let n = 0, cost = 0;
    runs.forEach((length, k) => {
      const sampled = k % 2 === 1, part = el("span", sampled ? "sampled" : "given");
      for (const stop = n + length; n < stop; n++) {
        const text = words.get(ids[n]), p = sampled ? Math.exp(-costs[cost] / 1000) : 1;
        const token = el("span", "t" + (sampled ? " p" + [0.01, 0.1, 0.5, 0.9].filter((edge) => p < edge).length : ""), text ?? ids[n] + " ");
        token.said = "token " + (n + 1).toLocaleString("en") + (text === undefined ? "" : ", " + JSON.stringify(text)) + ", id " + ids[n] + ": "
          + (sampled ? "sampled, probability " + chance(costs[cost]) + " (" + (-costs[cost] / 1000).toFixed(3) + " nats)" : "not sampled, masked");
        if (sampled) cost++;
        part.append(token);
      }
      box.append(part);
    });
    let current = null;
    const point = (token) => {
      if (current) current.classList.remove("now");
      current = token;
      current.classList.add("now");
      readout.textContent = current.said;
    };
    box.addEventListener("mouseover", (event) => { if (event.target.said) point(event.target); });
    box.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const all = [...box.querySelectorAll(".t")];
      const next = all[current ? all.indexOf(current) + step : 0];
      if (next) { point(next); next.scrollIntoView({ block: "nearest" }); }
    });
    to.append(legend, readout, box);
  }
  function drawForks(to, i) {
    const h = heads[i], top = (j) => {
      const seen = new Set();
      while (heads[j][FORK] && byName.has(heads[j][FORK][0]) && !seen.has(j)) {
        seen.add(j);
        const near = byName.get(heads[j][FORK][0]);
        j = near.find((k) => heads[k][ARM] === heads[j][ARM]) ?? near[0];
      }
      return j;
    };
    const root = top(i);
    if (!h[FORK] && !children.has(h[ID])) return;
    const nav = el("nav", "forks");
    nav.setAttribute("aria-label", "Forks of this episode");
    nav.append(el("b", "", "Forks"));
    if (heads[root][FORK]) nav.append(el("p", "note", "Branched off " + heads[root][FORK][0] + ", which is not in this page, after " + many(heads[root][FORK][1], "turn") + "."));
    let left = 200;
    const drawn = new Set();
    const branch = (j) => {
      drawn.add(j);
      const item = el("li"), [sign, word, tone] = MARK[heads[j][VERDICT]], button = el("button", j === i ? "here" : "");
      const mark = el("span", "mark " + tone, sign);
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", word);
      button.type = "button";
      if (j === i) button.setAttribute("aria-current", "true");
      const fork = heads[j][FORK];
      button.append(mark, (fork ? "after turn " + fork[1] + ": " : "") + many(heads[j][TURNS], "turn") + ", reward " + heads[j][REWARD]);
      button.append(el("small", "", heads[j][ID]));
      button.addEventListener("click", () => openEpisode(j));
      item.append(button);
      const below = (children.get(heads[j][ID]) || []).filter((k) => !drawn.has(k)).sort((a, b) => heads[a][FORK][1] - heads[b][FORK][1] || a - b);
      if (below.length) {
        const inner = el("ul");
        for (const k of below) if (!drawn.has(k) && left-- > 0) inner.append(branch(k));
        item.append(inner);
      }
      return item;
    };
    const tree = el("ul");
    tree.append(branch(root));
    nav.append(tree);
    if (left < 0) nav.append(el("p", "note", "200 of the forks are shown."));
    to.append(nav);
  }
  function draw() {
    const h = heads[open], [env, task, about, stop, parts, plan, error, prompt, turns] = JSON.parse(bodies[open]);
    const [sign, word, tone] = MARK[h[VERDICT]], stream = streams[open], fresh = document.createDocumentFragment();
    fresh.append(el("h3", "", about || "(no instruction)"));
    chips(fresh, [
      [sign + " " + word, tone],
      ["reward " + h[REWARD]],
      ...parts.map(([name, value]) => [name + " " + value]),
      ["stopped: " + stop],
      [many(h[TURNS], "turn") + (h[OPTIMUM] === null ? "" : ", expert " + h[OPTIMUM])],
      [h[SAMPLED] ? many(h[SAMPLED], "token") + " sampled" : ""],
      ...h[FAULTS].map((f) => ["\u26a1 struck: " + f, "warn"]),
    ]);
    fresh.append(el("p", "note mono", [h[ARM], h[CONDITION], env, "task " + task, "episode " + h[ID] + (h[ATTEMPT] ? ", attempt " + h[ATTEMPT] : ""), plan && "plan " + plan]
      .filter(Boolean).join(" \u00b7 ")));
    if (error) chips(fresh, [["error: " + error, "bad"]]);
    drawForks(fresh, open);
    if (stream) {
      const modes = el("div", "modes");
      modes.setAttribute("role", "group");
      modes.setAttribute("aria-label", "Shown as");
      for (const [text, value] of [["Conversation", false], ["Tokens", true]]) {
        const button = el("button", "", text);
        button.type = "button";
        button.setAttribute("aria-pressed", String(asTokens === value));
        button.addEventListener("click", () => { show(value); pane.querySelector(".modes [aria-pressed=true]").focus(); });
        modes.append(button);
      }
      fresh.append(modes);
    }
    if (asTokens && stream) drawTokens(fresh, stream); else drawChat(fresh, prompt, turns);
    pane.replaceChildren(fresh);
  }
  function show(tokens) {
    asTokens = tokens;
    draw();
  }

  // ---- what the reader does

  let soon = 0;
  search.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(changed, 60); });
  for (const select of [arm, condition, verdict, fault, order]) select.addEventListener("change", changed);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /INPUT|SELECT|TEXTAREA/.test(event.target.tagName);
    if (event.key === "Escape" && (typing || search.value)) {
      event.preventDefault();
      if (search.value) { search.value = ""; changed(); }
      list.focus({ preventScroll: true });
      return;
    }
    if (typing) return;
    if (event.key === "/") {
      event.preventDefault();
      search.focus();
      search.select();
      return;
    }
    if (event.key === "t" && open >= 0 && streams[open]) { show(!asTokens); return; }
    const page = Math.max(1, Math.floor(list.clientHeight / rowHeight()) - 1);
    const step = { j: 1, k: -1 }[event.key]
      || event.target === list && { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (!step) return;
    event.preventDefault();
    if (!list.matches(":focus")) list.focus({ preventScroll: true });
    choose(at < 0 ? 0 : at + step);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-open]");
    if (!button || +button.dataset.open >= heads.length) return;
    openEpisode(+button.dataset.open).then(() => {
      byId("episodes").scrollIntoView();
      list.focus({ preventScroll: true });
    });
  });

  // ---- the live page: new lines as they come

  const state = byId("state");
  let epoch = null, had = 0, summary = "";
  async function ask(what) {
    const answer = await fetch(what, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    return answer;
  }
  async function poll() {
    for (let more = true; more;) {
      const got = await (await ask("lines?from=" + had + "&epoch=" + (epoch ?? ""))).json();
      if (epoch !== got.epoch) {  // the server began anew, or let go of the oldest
        heads = []; bodies = []; streams = []; hay = []; prompts = []; words = new Map(); byName = new Map(); children = new Map();
        shown = []; at = open = -1; had = 0; epoch = got.epoch;
      }
      if (got.lines.length) {
        await takeSlowly(got.lines);
        had += got.lines.length;
        await filter();
        if (open < 0 && shown.length) choose(0);
      }
      more = had < got.total;
      state.textContent = got.problem ? "live, but: " + got.problem : more ? "reading" : "live";
      if (!more) document.documentElement.dataset.ready = "";
    }
    const answer = await ask("summary?have=" + encodeURIComponent(summary));
    if (answer.status === 200) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html"), old = byId("summary");
      const opened = new Map([...old.querySelectorAll("details")].map((d) => [d.dataset.name, d.open]));
      const nodes = fresh.getElementById("summary");
      nodes.querySelectorAll("details").forEach((d) => { if (opened.has(d.dataset.name)) d.open = opened.get(d.dataset.name); });
      summary = nodes.dataset.version;
      old.replaceWith(document.importNode(nodes, true));
    }
  }
  async function follow() {
    for (let misses = 0; misses < 5;) {
      try {
        if (!document.hidden || !epoch) await poll();
        misses = 0;
      } catch {
        misses++;
        state.textContent = "no answer";
      }
      await new Promise((go) => setTimeout(go, 1500));
    }
    state.textContent = "ended: the command is no longer running; what is here can still be read";
  }

  if (live) follow();
  else if (typeof DecompressionStream === "undefined") pane.append(el("p", "note", "The episodes need a browser of 2023 or later."));
  else embedded();
})();
