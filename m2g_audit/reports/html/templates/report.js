"use strict";
// Prompts are other people's text: rows are built with textContent, details come escaped.
(() => {
  const PAGE = Number(document.body.dataset.shown);
  const WORDS = ["failed", "memorized", "collapsed", "attractor", "mixed", "spurious", "undecided", "generalized"];
  const SVG = "http://www.w3.org/2000/svg";
  const get = (id) => document.getElementById(id);
  const rows = JSON.parse(get("data").textContent);
  const byId = new Map(rows.map((row) => [row.id, row]));
  const files = document.body.dataset.files;
  const alone = document.body.dataset.prompts === "1";
  const labelled = get("label") !== null;
  const referenced = rows.some((row) => row.reference !== null);
  const state = { query: "", words: new Set(), label: null, key: "rank", down: false, shown: PAGE };
  let found = rows;
  let scrolled = 0;
  let open = null;

  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const percent = (share) => `${Math.round(100 * share)}%`;

  // -- the table

  const value = {
    rank: (row) => row.rank,
    severity: (row) => WORDS.indexOf(row.verdict),
    prompt: (row) => row.prompt,
    share: (row) => row.share && row.share[0],
    mass: (row) => row.mass,
    reference: (row) => row.reference,
    label: (row) => row.label,
  };

  const inOrder = (a, b) => a.localeCompare(b, "en", { numeric: true });

  // What a first click on a heading shows first is the worst.
  const FIRST_DOWN = new Set(["share", "mass"]);

  const order = (a, b) => {
    const [x, y] = [value[state.key](a), value[state.key](b)];
    if (x === y) return a.rank - b.rank;
    if (x === null) return 1;
    if (y === null) return -1;
    const sign = typeof x === "string" ? inOrder(x, y) : x - y;
    return state.down ? -sign : sign;
  };

  const update = () => {
    const query = state.query.toLowerCase();
    found = rows.filter(
      (row) =>
        (!state.words.size || state.words.has(row.verdict)) &&
        (state.label === null || row.label === state.label) &&
        (!query || row.prompt.toLowerCase().includes(query)),
    );
    found.sort(order);
    state.shown = PAGE;
    draw();
  };

  const draw = () => {
    get("rows").replaceChildren(...found.slice(0, state.shown).map(drawRow));
    const all = rows.length.toLocaleString("en");
    get("count").textContent =
      found.length === rows.length ? `${all} ${rows.length === 1 ? "prompt" : "prompts"}` : `${found.length.toLocaleString("en")} of ${all} prompts`;
    get("more").hidden = found.length <= state.shown;
    for (const button of document.querySelectorAll("[data-sort]")) {
      const sorted = button.dataset.sort === state.key;
      const direction = state.down ? "descending" : "ascending";
      button.parentElement.setAttribute("aria-sort", sorted ? direction : "none");
    }
  };

  const drawRow = (row) => {
    const line = make("tr", row.verdict);
    const icon = make("td", "icon");
    if (row.icon) {
      const image = make("img");
      image.src = row.icon;
      image.alt = "";
      icon.append(image);
    }
    const word = make("td", "word");
    word.append(make("span", `chip ${row.verdict}`, row.verdict));
    if (row.hangs) {
      const mark = make("span", "faint", "±");
      mark.title = "hangs on the threshold";
      word.append(" ", mark);
    }
    if (row.early !== null) word.append(" ", make("span", "faint", `${row.early} seeds`));
    const prompt = make("td", "prompt");
    const link = make("a", "", row.prompt);
    link.href = `#${row.id}`;
    link.dir = "auto";
    prompt.append(link, make("p", "says", row.says));
    const share = make("td", "share");
    if (row.share) {
      const [estimate, low, high] = row.share;
      share.append(bar(estimate, low, high), make("span", "number", percent(estimate)));
      share.title = `${percent(low)} to ${percent(high)}`;
    }
    const mass = make("td", "number mass", row.mass === null ? "–" : percent(row.mass));
    const reference = make("td", "number reference", row.reference === null ? "–" : String(Number(row.reference.toPrecision(3))));
    line.append(icon, word, prompt, share, mass);
    if (referenced) line.append(reference);
    if (labelled) line.append(make("td", "label", row.label === null ? "" : row.label));
    return line;
  };

  const bar = (estimate, low, high) => {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "bar");
    svg.setAttribute("viewBox", "0 0 200 14");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const part = (name, x, y, width, height) => {
      const rect = document.createElementNS(SVG, "rect");
      const numbers = { x, y, width, height };
      rect.setAttribute("class", name);
      for (const key of Object.keys(numbers)) rect.setAttribute(key, numbers[key]);
      svg.append(rect);
    };
    part("rail", 0, 6, 200, 2);
    part("span", 200 * low, 4, Math.max(200 * (high - low), 1), 6);
    part("mark", Math.min(Math.max(200 * estimate - 1.5, 0), 197), 0, 3, 14);
    return svg;
  };

  // -- one prompt

  const fill = (id, content) => {
    if (open !== id) return;
    get("detail").replaceChildren(content);
    const heading = get("detail").querySelector("h2");
    if (heading) heading.focus({ preventScroll: true });
  };

  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content;
  };

  // Where there are many prompts, their details lie in style sheets beside the page, in base64.
  const detail = (id) => {
    const style = getComputedStyle(document.documentElement);
    const parts = [];
    for (let part; (part = style.getPropertyValue(`--m2g-${id}-${parts.length}`).trim()); )
      parts.push(part.slice(1, -1));
    return new TextDecoder().decode(Uint8Array.from(atob(parts.join("")), (c) => c.charCodeAt(0)));
  };

  const load = (id) => {
    const inline = get(`p-${id}`);
    if (inline) {
      fill(id, inline.content.cloneNode(true));
      return;
    }
    get("detail").replaceChildren(make("p", "faint", "Loading"));
    const sheet = make("link");
    sheet.rel = "stylesheet";
    sheet.href = `${encodeURIComponent(files)}/${id}.css`;
    sheet.onload = () => {
      const html = detail(id);
      sheet.remove();
      fill(id, parse(html));
    };
    sheet.onerror = () => {
      sheet.remove();
      if (open === id) get("detail").replaceChildren(make("p", "warning", `The folder ${files} is not beside this page: details of prompts lie there.`));
    };
    document.head.append(sheet);
  };

  const point = (link, row) => {
    link.hidden = row === undefined;
    link.href = row === undefined ? "#" : `#${row.id}`;
  };

  const follow = () => {
    const id = location.hash.slice(1);
    const row = byId.get(id);
    if (open === null) scrolled = window.scrollY;
    const left = open;
    open = row ? id : null;
    get("list").hidden = Boolean(row);
    get("head").hidden = Boolean(row) && !alone; // of one prompt it is the answer
    get("one").hidden = !row;
    if (!row) {
      get("detail").replaceChildren();
      window.scrollTo(0, scrolled);
      const link = left && document.querySelector(`#rows a[href="#${left}"]`);
      if (link) link.focus({ preventScroll: true });
      return;
    }
    const place = found.indexOf(row);
    get("place").textContent = place < 0 ? "" : `${place + 1} of ${found.length}`;
    point(get("previous"), found[place - 1]);
    point(get("next"), place < 0 ? undefined : found[place + 1]);
    window.scrollTo(0, 0);
    load(id);
  };

  // -- CSV

  // A spreadsheet runs cells that begin so, also after white space; one that takes other signs for
  // separators sees a cell begin within the text.
  const RUN = /(^|[;,|\t\r\n"'])(?=\s*[=+\-@＝＋－＠|%])/g;
  const cell = (content) => {
    const text = content === null || content === undefined ? "" : String(content);
    const safe = typeof content === "string" ? text.replace(RUN, "$1'") : text;
    return `"${safe.replaceAll('"', '""')}"`;
  };

  const save = () => {
    const names = ["rank", "verdict", "prompt", "not_new", "not_new_low", "not_new_high", "largest_attractor", "nearest_reference", "label", "id"];
    const lines = found.map((row) => [row.rank + 1, row.verdict, row.prompt, ...(row.share || ["", "", ""]), row.mass, row.reference, row.label, row.id]);
    const text = [names, ...lines].map((line) => line.map(cell).join(",")).join("\r\n");
    const link = make("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text, "\r\n"], { type: "text/csv" }));
    link.download = "prompts.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  };

  // -- what listens

  for (const word of WORDS.filter((one) => rows.some((row) => row.verdict === one))) {
    const button = make("button", `chip ${word}`, word);
    button.type = "button";
    button.dataset.word = word;
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      const on = !state.words.delete(word);
      if (on) state.words.add(word);
      button.setAttribute("aria-pressed", String(on));
      update();
    });
    get("words").append(button);
  }
  get("search").addEventListener("input", (event) => {
    state.query = event.target.value;
    update();
  });
  get("filters").addEventListener("submit", (event) => event.preventDefault());
  if (labelled) {
    const labels = [...new Set(rows.map((row) => row.label))].filter((label) => label !== null);
    for (const label of labels.sort(inOrder)) get("label").append(make("option", "", label));
    get("label").addEventListener("change", (event) => {
      const chosen = event.target.selectedIndex;
      state.label = chosen ? labels[chosen - 1] : null;
      update();
    });
  }
  for (const button of document.querySelectorAll("[data-sort]"))
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      state.down = state.key === key ? !state.down : FIRST_DOWN.has(key);
      state.key = key;
      update();
    });
  get("more").addEventListener("click", () => {
    state.shown += PAGE;
    draw();
  });
  get("csv").addEventListener("click", save);
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", (event) => {
    if (open === null || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const id = { ArrowLeft: "previous", ArrowRight: "next", Escape: "back" }[event.key];
    if (id && !get(id).hidden) get(id).click();
  });
  get("filters").hidden = false; // nothing in it works without this script
  document.querySelector("th.reference").hidden = !referenced;
  update();
  if (alone && rows.length) location.replace(`#${rows[0].id}`);
  follow();
})();
