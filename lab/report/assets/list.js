"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("has-js");
  try { const t = localStorage.getItem("holdfast-theme"); if (t === "light" || t === "dark") root.dataset.theme = t; } catch { /* none */ }
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("holdfast-theme", root.dataset.theme); } catch { /* not kept */ }
  });
  const q = document.getElementById("q");
  const filter = () => {
    const words = q.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of document.querySelectorAll(".runs tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((w) => text.includes(w));
    }
  };
  q.addEventListener("input", filter);
  if (!document.body.dataset.going) return;
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const page = new DOMParser().parseFromString(await (await fetch(location.href, { cache: "no-store" })).text(), "text/html");
      for (const what of [".runs tbody", ".tally"]) {
        const a = document.querySelector(what), b = page.querySelector(what);
        if (a && b) a.replaceWith(document.adoptNode(b));
      }
      filter();
    } catch { /* the next time */ }
  }, 3000);
})();
