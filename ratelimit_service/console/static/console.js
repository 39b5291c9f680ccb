/* Theme, keyboard, dialogs, live parts, copying. Every page works without it. No style is set and no handler is written into
   a page from here, so the policy needs neither 'unsafe-inline' nor 'unsafe-eval'. */
(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const base = root.dataset.root;

  /* ---- Theme: a cookie, so that the server renders the page in it and nothing flashes ------------------------------------ */

  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark")) === "dark";
  const toggleTheme = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    document.cookie = `theme=${root.dataset.theme}; path=${base}; max-age=31536000; samesite=strict`;
    document.dispatchEvent(new Event("themechange"));
  };

  /* ---- What is read from a page once it, or a part of it, is there ------------------------------------------------------- */

  /* Tables that become lists on narrow screens lose their roles in some browsers: name them. */
  const nameRoles = (table) => {
    const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TFOOT: "rowgroup", TR: "row", TD: "cell" };
    for (const part of [table, ...all("thead, tbody, tfoot, tr, td", table)]) part.setAttribute("role", roles[part.tagName]);
    for (const head of all("th", table)) head.setAttribute("role", head.scope === "row" ? "rowheader" : "columnheader");
  };

  /* Times are in UTC; the tooltip has the reader's own zone. */
  const nameZone = (time) => {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.valueOf())) time.title = `${time.dateTime.replace("T", " ").replace("Z", " UTC")}, ${moment.toLocaleString()} here`;
  };

  const confirmTyped = (field) => {
    const button = field.form.querySelector("button[type=submit]");
    const check = () => { button.disabled = field.value !== field.dataset.confirm; };
    field.addEventListener("input", check);
    check();
  };

  const showBy = (part) => {
    const choice = part.closest("form").elements[part.dataset.shownBy];
    const show = () => { part.hidden = choice.value !== part.dataset.value; };
    choice.addEventListener("change", show);
    show();
  };

  const prepare = (within) => {
    all("table.t", within).forEach(nameRoles);
    all("time[datetime]", within).forEach(nameZone);
    all("[data-confirm]", within).forEach(confirmTyped);
    all("[data-shown-by]", within).forEach(showBy);
    globalThis.consoleCharts?.draw(within);
  };

  /* ---- Dialogs: each is a page of its own, whose form is shown over this one --------------------------------------------- */

  /* The page beneath may have the same ids, and a label belongs to the first element that has its. */
  const ownIds = (form) => {
    const own = (text) => text.split(" ").map((id) => (form.querySelector(`#${CSS.escape(id)}`) ? `dlg-${id}` : id)).join(" ");
    for (const name of ["for", "aria-describedby", "aria-labelledby", "data-copy"]) {
      for (const part of all(`[${name}]`, form)) part.setAttribute(name, own(part.getAttribute(name)));
    }
    for (const part of all("[id]:not(#dlg-h)", form)) part.id = `dlg-${part.id}`;
  };

  const openPage = async (link) => {
    const dialog = document.getElementById("dlg");
    let form = null;
    try {
      const answer = await fetch(link.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      form = answer.ok && !answer.redirected ? page.querySelector("main .dlg") : null;
    } catch { /* the page itself says what is wrong */ }
    if (!form) { location.href = link.href; return; }
    const title = form.querySelector("h1");
    const heading = document.createElement("h2");
    heading.id = "dlg-h";
    heading.append(...title.childNodes);
    title.replaceWith(heading);
    ownIds(form);
    dialog.replaceChildren(form);
    prepare(dialog);
    if (!dialog.open) dialog.showModal();
    form.querySelector("[autofocus], input:not([type=hidden]), select, .acts > *")?.focus();
  };

  /* ---- Live parts: the server sends those that have changed; a hidden tab closes its stream ----------------------------- */

  const STALE_MS = 10_000;
  const RETRY_MS = 5_000;
  const live = document.querySelector("[data-live]");
  const streamed = document.querySelector("[data-stream]");
  const banner = document.querySelector("[data-stale]");
  const shownParts = new Map(all("[data-part]").map((part) => [part.dataset.part, part.innerHTML.trim()]));
  const waiting = new Map();
  let stream = null;
  let heard = 0;
  let watch = 0;
  let retry = 0;

  /* A part is not replaced under the pointer or the focus: what it has become is shown once they have left it. */
  const isBusy = (part) => part.contains(document.activeElement) || (matchMedia("(hover: hover)").matches && part.matches(":hover"));
  const replaceParts = () => {
    for (const [name, html] of waiting) {
      const part = document.querySelector(`[data-part="${CSS.escape(name)}"]`);
      if (part && isBusy(part)) continue;
      waiting.delete(name);
      const sent = new DOMParser().parseFromString(html, "text/html").body;
      const text = sent.innerHTML.trim();
      if (!part || shownParts.get(name) === text) continue;
      const open = all("details", part).map((box) => box.open);
      shownParts.set(name, text);
      part.replaceChildren(...sent.childNodes);
      all("details", part).forEach((box, position) => { box.open = open[position] ?? box.open; });
      prepare(part);
    }
  };
  const ageWords = () => {
    const seconds = Math.round((Date.now() - heard) / 1000);
    return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
  };
  const setStale = (stale) => {
    for (const part of all("main [data-part]")) part.classList.toggle("stale", stale);
    live.hidden = stale;
    if (!banner) return;
    banner.hidden = !stale;
    if (stale) banner.querySelector("strong").textContent = `Figures are from ${new Date(heard).toISOString().slice(11, 19)} UTC, ${ageWords()} ago.`;
  };
  const hear = () => { heard = Date.now(); setStale(false); };
  const closeStream = () => { stream?.close(); stream = null; clearInterval(watch); clearTimeout(retry); };
  /* A stream that was not accepted is asked for again, unless the session has ended: then the page shows the sign-in. */
  const askAgain = async () => {
    if (stream?.readyState !== EventSource.CLOSED) return;
    stream = null;
    try {
      const answer = await fetch(location.href, { method: "HEAD", redirect: "manual" });
      if (answer.type === "opaqueredirect") { location.reload(); return; }
    } catch { /* the server is away */ }
    retry = setTimeout(openStream, RETRY_MS);
  };
  const openStream = () => {
    if (!streamed || stream || document.hidden || !live.hasAttribute("data-on")) return;
    heard ||= Date.now();
    stream = new EventSource(streamed.dataset.stream);
    stream.addEventListener("message", (event) => {
      for (const [name, html] of Object.entries(JSON.parse(event.data))) waiting.set(name, html);
      hear();
      replaceParts();
    });
    stream.addEventListener("same", () => { hear(); replaceParts(); });
    stream.addEventListener("end", () => { closeStream(); location.reload(); });
    stream.addEventListener("error", askAgain);
    clearInterval(watch);
    watch = setInterval(() => { replaceParts(); if (Date.now() - heard > STALE_MS) setStale(true); }, 1000);
  };
  const toggleLive = () => {
    const on = live.toggleAttribute("data-on");
    live.lastElementChild.textContent = on ? "Live" : "Paused";
    if (on) { heard = Date.now(); openStream(); } else closeStream();
    setStale(false);
  };

  /* ---- Copying, the terminal, rows --------------------------------------------------------------------------------------- */

  const copy = async (button) => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    const icon = button.querySelector("use");
    const before = icon.getAttribute("href");
    icon.setAttribute("href", before.replace("#copy", "#check"));
    setTimeout(() => icon.setAttribute("href", before), 1500);
  };
  const openTerminal = (toggle) => {
    const box = document.getElementById("terminal");
    if (!box) return;
    box.open = toggle ? !box.open : true;
    if (!box.open) return;
    box.scrollIntoView({ block: "nearest" });
    box.querySelector("summary").focus({ preventScroll: true });
  };
  const moveRow = (by) => {
    const links = all("main .t tbody .go").filter((link) => link.offsetParent);
    const at = links.indexOf(document.activeElement);
    links[Math.max(0, Math.min(links.length - 1, at + by))]?.focus();
  };

  const readPicks = () => {
    const boxes = all("input[name=key_id][type=checkbox]");
    if (!boxes.length) return;
    const pickAll = document.querySelector("[data-pick-all]");
    const buttons = all("[data-needs-pick]");
    const count = () => {
      const chosen = boxes.filter((box) => box.checked).length;
      for (const button of buttons) button.disabled = !chosen;
      document.querySelector("[data-picked]").textContent = chosen ? `${chosen.toLocaleString("en")} chosen` : "";
      pickAll.checked = chosen > 0 && chosen === boxes.filter((box) => !box.disabled).length;
    };
    pickAll.hidden = false;
    pickAll.addEventListener("change", () => { for (const box of boxes) box.checked = pickAll.checked && !box.disabled; count(); });
    for (const box of boxes) box.addEventListener("change", count);
    count();
  };

  /* ---- Keys: off while typing; the switch in the list turns all of them off but "?" -------------------------------------- */

  const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* for this page only */ } };
  let singleKeys = stored("single-keys") !== "off";
  let leader = 0;
  const places = { o: "", k: "keys", p: "plans", r: "rules", a: "audit", l: "alerts" };
  const onKey = (event) => {
    if (event.metaKey || event.ctrlKey || event.altKey || event.isComposing) return;
    if (event.target.closest("input, select, textarea, dialog") || (!singleKeys && event.key !== "?")) return;
    const place = places[event.key];
    if (leader && event.timeStamp - leader < 1000 && place !== undefined) {
      leader = 0;
      location.href = `${base}${place}`;
      return;
    }
    leader = event.key === "g" ? event.timeStamp : 0;
    const act = {
      "/": () => (document.getElementById("q").offsetParent ? document.getElementById("q").focus() : openFind()),
      "?": () => document.getElementById("dlg-keys").showModal(),
      t: () => openTerminal(false),
      p: () => live && !live.hidden && toggleLive(),
      j: () => moveRow(1),
      k: () => moveRow(-1),
    }[event.key];
    if (act && document.getElementById("dlg-keys")) { act(); event.preventDefault(); }
  };
  const openFind = () => {
    location.hash = "find";
    scrollTo(0, 0);
    document.getElementById("q").focus({ preventScroll: true });
  };

  const onClick = (event) => {
    const button = event.target.closest("[data-theme-toggle], [data-copy], [data-terminal], [data-live], [data-find], a[data-dialog], [data-close]");
    if (!button || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const data = button.dataset;
    if ("themeToggle" in data) toggleTheme();
    else if ("copy" in data) copy(button);
    else if ("live" in data) toggleLive();
    else if ("close" in data) { if (button.closest("dialog")) { event.preventDefault(); button.closest("dialog").close(); } }
    else {
      event.preventDefault();
      if ("terminal" in data) openTerminal(true);
      else if ("find" in data) openFind();
      else openPage(button);
    }
  };

  document.addEventListener("keydown", onKey);
  document.addEventListener("click", onClick);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) closeStream();
    else { heard = Date.now(); openStream(); }
  });
  addEventListener("pagehide", closeStream);
  for (const box of all("[data-single-keys]")) {
    box.checked = singleKeys;
    box.addEventListener("change", () => { singleKeys = box.checked; store("single-keys", singleKeys ? "on" : "off"); });
  }
  prepare(document);
  readPicks();
  if (live && streamed) { live.hidden = false; openStream(); }
})();
