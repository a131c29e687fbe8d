"use strict";
// Theme, search, tables that sort, keys. Every page is whole without this script; it loads nothing and keeps one word (the theme).
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // ------------------------------------------------------------------------------------------------------------ theme
  const KEY = "tutelage-theme";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const kept = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();

  function themeButton() {
    const button = document.getElementById("theme");
    const say = () => {
      const other = theme() === "dark" ? "light" : "dark";
      button.textContent = other === "dark" ? "Dark" : "Light";
      button.setAttribute("aria-label", `Show the ${other} theme`);
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      try { localStorage.setItem(KEY, root.dataset.theme); } catch { /* it stays for this page */ }
      say();
    });
    dark.addEventListener("change", say);
    say();
  }

  // ----------------------------------------------------------------------------------------------------------- search
  // fields of a system in the index, after its name for addresses; what a word found in each is worth
  const FIELDS = { name: [1, 10], title: [2, 5], room: [3, 4], have: [4, 4], want: [5, 4], rest: [6, 1] };
  const EMPTY = new Set("a an and any are as at be by can do for from has have i in is it its my of on one or some that the their them this to want what which with".split(" "));

  // as content.plain_words
  const words = (text) => (text.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "").match(/[\p{L}\p{N}]+/gu) || []);

  function parse(query) {
    const all = words(query);
    const have = all.indexOf("have"), want = all.indexOf("want");
    const wanted = [];
    const single = (word) => (word.length > 3 && word.endsWith("s") && !word.endsWith("ss") ? word.slice(0, -1) : word);
    const add = (list, fields) => list.filter((w) => !EMPTY.has(w)).forEach((word) => wanted.push({ word: single(word), fields }));
    const any = Object.keys(FIELDS);
    if (have < 0 && want < 0) add(all, any);
    else {
      const [first, second] = have < 0 ? [want, -1] : want < 0 ? [have, -1] : [Math.min(have, want), Math.max(have, want)];
      add(all.slice(0, first), any);
      add(all.slice(first + 1, second < 0 ? undefined : second), [all[first]]);
      if (second >= 0) add(all.slice(second + 1), [all[second]]);
    }
    return wanted.length ? wanted : all.map((word) => ({ word, fields: any }));
  }

  function worth(text, word) {
    if (` ${text} `.includes(` ${word} `) || ` ${text} `.includes(` ${word}s `)) return 1;
    if (` ${text}`.includes(` ${word}`)) return 0.7;
    return word.length > 2 && text.includes(word) ? 0.4 : 0;
  }

  function score(system, wanted) {
    let sum = 0;
    for (const { word, fields } of wanted) {
      const best = Math.max(...fields.map((field) => FIELDS[field][1] * worth(system[FIELDS[field][0]], word)));
      if (!best) return 0;
      sum += best;
    }
    return sum;
  }

  // every word in its field; else what has at least half of the words, those in their own field counting ten times as much
  function found(systems, query) {
    const wanted = parse(query);
    const best = (hits) => hits.sort((a, b) => b[0] - a[0]);
    const all = systems.map((s) => [score(s, wanted), s[0]]).filter(([value]) => value > 0);
    if (all.length) return { hits: best(all), exact: true };
    const anywhere = wanted.map(({ word }) => ({ word, fields: Object.keys(FIELDS) }));
    const some = [];
    for (const system of systems) {
      const values = wanted.map((one, i) => 10 * score(system, [one]) || score(system, [anywhere[i]]));
      if (2 * values.filter(Boolean).length >= values.length) some.push([values.reduce((a, b) => a + b, 0), system[0]]);
    }
    return { hits: best(some).slice(0, 12), exact: false };
  }

  function search() {
    const form = document.getElementById("search");
    if (!form) return;
    const index = JSON.parse(document.getElementById("index").textContent);
    const [box, room, state] = ["q", "room", "state"].map((id) => document.getElementById(id));
    const [list, count, clear] = ["results", "count", "clear"].map((id) => document.getElementById(id));
    const also = document.getElementById("pages"), pages = document.getElementById("page-results");
    const items = new Map([...list.children].map((item) => [item.id.slice(2), item]));

    function show() {
      const query = box.value.trim();
      const result = query ? found(index.systems, query) : { hits: index.systems.map((s) => [1, s[0]]), exact: true };
      const shown = result.hits.map(([, slug]) => items.get(slug)).filter((item) =>
        (!room.value || item.dataset.room === room.value) && (!state.value || item.dataset.state === state.value));
      for (const item of items.values()) item.hidden = true;
      for (const item of shown) { item.hidden = false; list.append(item); }
      const others = query ? [...pagesFor(query), ["API", `names with “${query}”`, `api/index.html?name=${encodeURIComponent(query)}`]] : [];
      pages.replaceChildren(...others.map(([kind, title, url]) => {
        const item = document.createElement("li"), link = document.createElement("a");
        link.href = url;
        link.textContent = title;
        item.append(link, ` (${kind})`);
        return item;
      }));
      also.hidden = !others.length;
      const number = `${shown.length} ${shown.length === 1 ? "system" : "systems"}`;
      count.textContent = shown.length
        ? `${number}${result.exact ? "" : "; not every word is there, or where you asked for it"}`
        : "No system matches. Fewer words, or another room or state, find more.";
      clear.hidden = !(box.value || room.value || state.value);
      remember();
    }

    function pagesFor(query) {
      const wanted = parse(query);
      return index.pages
        .map((page) => [wanted.map(({ word }) => 5 * worth(page[3], word) || worth(page[4], word)), page])
        .filter(([values]) => values.length && values.every(Boolean))
        .sort((a, b) => b[0].reduce((x, y) => x + y, 0) - a[0].reduce((x, y) => x + y, 0))
        .slice(0, 8)
        .map(([, page]) => page);
    }

    function remember() {
      const given = new URLSearchParams();
      for (const field of [box, room, state]) if (field.value.trim()) given.set(field.name, field.value.trim());
      const address = `${location.pathname}${given.size ? `?${given}` : ""}${location.hash}`;
      try { history.replaceState(null, "", address); } catch { /* not for pages opened from disk in every browser */ }
    }

    const given = new URLSearchParams(location.search);
    for (const field of [box, room, state]) {
      field.value = given.get(field.name) || "";
      if (field.value === "" && field !== box) field.selectedIndex = 0;
    }
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const first = visible()[0];
      if (box.value.trim() && first) location.href = first.href;
    });
    for (const field of [box, room, state]) field.addEventListener("input", show);
    clear.addEventListener("click", () => { box.value = room.value = state.value = ""; show(); box.focus(); });
    show();
  }

  const visible = () => [...document.querySelectorAll("#results > li:not([hidden]) > a, #pages:not([hidden]) a")];

  // ------------------------------------------------------------------------------------------------------------- keys
  function keys() {
    const box = document.getElementById("q");
    document.addEventListener("keydown", (event) => {
      const at = document.activeElement;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "/" && box && !["INPUT", "SELECT", "TEXTAREA"].includes(at.tagName)) {
        event.preventDefault();
        box.focus();
        box.select();
      } else if (event.key === "Escape" && at === box) {
        if (box.value) { box.value = ""; box.dispatchEvent(new Event("input")); event.preventDefault(); } else box.blur();
      } else if (["ArrowDown", "ArrowUp"].includes(event.key) && document.getElementById("results")) {
        const links = visible(), place = links.indexOf(at);
        if (place < 0 && !(at === box && event.key === "ArrowDown")) return;
        event.preventDefault();
        const next = place + (event.key === "ArrowDown" ? 1 : -1);
        if (next < 0) box.focus(); else if (links[next]) links[next].focus();
      }
    });
  }

  // ------------------------------------------------------------------------------------------------- names of the API
  function filtering() {
    const box = document.getElementById("filter");
    if (!box) return;
    const modules = [...document.querySelectorAll(".module")].map((element) => {
      const names = (element.querySelector(".listed")?.textContent || "").split(", ").filter(Boolean);
      return [element, names, names.join(" ").toLowerCase()];
    });
    box.value = new URLSearchParams(location.search).get("name") || "";
    const show = () => {
      const part = box.value.trim().toLowerCase();
      let modulesLeft = 0, names = 0;
      for (const [element, all, text] of modules) {
        element.hidden = !element.dataset.names.includes(part) && !text.includes(part);
        modulesLeft += !element.hidden;
        names += all.filter((name) => name.toLowerCase().includes(part)).length;
      }
      document.getElementById("filtered").textContent = part ? `${names} names; ${modulesLeft} modules have it` : "";
    };
    document.getElementById("filtering").addEventListener("submit", (event) => event.preventDefault());
    box.addEventListener("input", show);
    show();
  }

  // ----------------------------------------------------------------------------------------------------------- tables
  function sorting() {
    for (const table of document.querySelectorAll("table.sortable")) {
      const heads = [...table.tHead.rows[0].cells];
      heads.forEach((head, column) => {
        if (head.classList.contains("plain-column")) return;
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = head.textContent;
        head.replaceChildren(button);
        button.addEventListener("click", () => {
          const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
          heads.forEach((other) => other.removeAttribute("aria-sort"));
          head.setAttribute("aria-sort", way);
          const value = (row) => { const cell = row.cells[column]; return cell.dataset.sort ?? cell.textContent.trim(); };
          const compare = (a, b) => {
            const [x, y] = [value(a), value(b)];
            return x !== "" && y !== "" && !isNaN(x) && !isNaN(y) ? x - y : x.localeCompare(y);
          };
          const rows = [...table.tBodies[0].rows].sort((a, b) => (way === "ascending" ? 1 : -1) * compare(a, b));
          table.tBodies[0].append(...rows);
        });
      });
    }
  }

  document.addEventListener("DOMContentLoaded", () => { themeButton(); search(); keys(); sorting(); filtering(); });
})();
