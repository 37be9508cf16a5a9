"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("has-js");
  const W = 1062, GUTTER = 84; // the measures of the charts, as in svg.go
  const NS = "http://www.w3.org/2000/svg";
  const OUTCOME = ["ok", "failed", "unknown"];
  let data, rows, charts = [], from = 0, to = 1;

  // Light or dark, kept where the browser keeps it.
  const keep = (v) => { try { localStorage.setItem("holdfast-theme", v); } catch { /* not kept */ } };
  try { const t = localStorage.getItem("holdfast-theme"); if (t === "light" || t === "dark") root.dataset.theme = t; } catch { /* none */ }
  document.addEventListener("click", (e) => {
    const b = e.target.closest("button");
    if (!b) return;
    if (b.id === "theme") {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      keep(root.dataset.theme);
    } else if (b.id === "copy") {
      copy(document.getElementById("command"), b);
    } else if (b.dataset.zoom) {
      zoomBy(b.dataset.zoom);
    }
  });

  function copy(code, button) {
    const done = () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); };
    const select = () => {
      const s = getSelection(), r = document.createRange();
      r.selectNodeContents(code); s.removeAllRanges(); s.addRange(r);
      if (document.execCommand("copy")) done();
    };
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, select); else select();
  }

  function setUp() {
    data = JSON.parse(document.getElementById("data").textContent);
    from = 0; to = data.end;
    rows = new Map(data.rows);
    charts = [...document.querySelectorAll("svg.chart[data-end]")].map((svg) => ({
      svg, zoom: svg.querySelector(".zoom"), ticks: svg.querySelector(".ticks"), texts: [...svg.querySelectorAll("[data-t]")],
      points: [...svg.querySelectorAll("path.point")], height: svg.viewBox.baseVal.height,
      row: +svg.dataset.row, top: +svg.dataset.top, bottom: +svg.dataset.bottom,
    }));
    for (const c of charts) {
      c.base = c.zoom.getAttribute("viewBox").split(" ").map(Number);
      c.before = c.ticks.innerHTML;
      c.svg.addEventListener("pointermove", (e) => move(c, e));
      c.svg.addEventListener("pointerleave", leave);
      c.svg.addEventListener("pointerdown", (e) => down(c, e));
      c.svg.addEventListener("dblclick", () => show(0, data.end));
    }
    // A title and a tip for the same would hide one another.
    const filter = document.getElementById("faultfilter");
    if (filter) filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of document.querySelectorAll("#faulttable tbody tr")) {
        const text = row.textContent.toLowerCase() + (row.classList.contains("nothing") ? " nothing" : "");
        row.hidden = !words.every((w) => text.includes(w));
      }
    });
    const home = document.querySelector(".home");
    if (home && location.protocol.startsWith("http")) home.hidden = false;
  }

  const x = (t) => GUTTER + W * (t - from) / (to - from);
  const moment = (c, e) => {
    const box = c.svg.getBoundingClientRect();
    return from + ((e.clientX - box.left) / box.width * 1160 - GUTTER) / W * (to - from);
  };

  // Zoom: the plots are stretched, texts and points keep their shape.
  function show(a, b) {
    const least = data.end / 20000;
    if (b - a < least) { const m = (a + b) / 2; a = m - least / 2; b = m + least / 2; }
    if (b - a >= data.end) { a = 0; b = data.end; }
    if (a < 0) { b -= a; a = 0; }
    if (b > data.end) { a -= b - data.end; b = data.end; }
    from = Math.max(a, 0); to = b;
    const whole = from === 0 && to === data.end;
    for (const c of charts) {
      c.zoom.setAttribute("viewBox", `${W * from / data.end} 0 ${W * (to - from) / data.end} ${c.base[3]}`);
      for (const t of c.texts) {
        const at = +t.dataset.t, end = +(t.dataset.to || at), inside = end >= from && at <= to;
        t.style.display = inside ? "" : "none";
        if (inside) t.setAttribute("x", Math.max(x(at), GUTTER) + +t.dataset.dx);
      }
      if (whole) c.ticks.innerHTML = c.before; else drawTicks(c);
      for (const p of c.points) points(c, p);
    }
    leave();
  }

  function drawTicks(c) {
    c.ticks.textContent = "";
    let step = 10 ** Math.floor(Math.log10((to - from) / 6));
    for (const m of [1, 2, 5, 10]) if (step * m * 12 >= to - from) { step *= m; break; }
    const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    for (let n = Math.ceil(from / step); n * step <= to; n++) {
      const t = document.createElementNS(NS, "text");
      t.setAttribute("x", x(n * step)); t.setAttribute("y", c.height - 5);
      t.setAttribute("class", "tick"); t.setAttribute("text-anchor", "middle");
      t.textContent = (n * step).toFixed(places) + " s";
      c.ticks.append(t);
    }
  }

  const latencyY = (c, us) => {
    const low = +c.svg.dataset.low, high = +c.svg.dataset.high;
    return (c.bottom - c.top) * (1 - Math.min(Math.max((Math.log10(Math.max(us * 1e3, 1)) - low) / (high - low), 0), 1));
  };

  function points(c, path) {
    const how = +path.dataset.o, k = (to - from) / data.end, d = [];
    for (const p of data.points) {
      const t = p[1] / 1e6;
      if (p[2] !== how || t < from || t > to) continue;
      const px = (W * t / data.end).toFixed(3), y = latencyY(c, p[1] - p[0]).toFixed(1), w = 2.5 * k, v = 3.4 * k;
      d.push(how === 0 ? `M${px} ${y}h0` : how === 1 ? `M${px} ${y}m${-w}-2.5l${2 * w} 5m0-5l${-2 * w} 5` : `M${px} ${y}m${-v} 0l${v}-3.4 ${v} 3.4 ${-v} 3.4z`);
    }
    path.setAttribute("d", d.join(""));
  }

  function zoomBy(what) {
    const w = to - from, m = (from + to) / 2;
    switch (what) {
      case "in": show(m - w / 4, m + w / 4); break;
      case "out": show(m - w, m + w); break;
      case "left": show(from - w / 3, to - w / 3); break;
      case "right": show(from + w / 3, to + w / 3); break;
      case "witness": show(data.focus[0], data.focus[1]); break;
      default: show(0, data.end);
    }
  }

  document.addEventListener("keydown", (e) => {
    if (e.target.closest("input,textarea,pre") || e.ctrlKey || e.metaKey || e.altKey) return;
    const zoomed = from > 0 || to < data.end;
    const what = { "+": "in", "=": "in", "-": "out", "0": "reset", Escape: "reset" }[e.key] || (zoomed && { ArrowLeft: "left", ArrowRight: "right" }[e.key]);
    if (what) { zoomBy(what); if (e.key.startsWith("Arrow")) e.preventDefault(); }
  });

  // The same moment is marked in all charts, and told in words.
  const tip = document.createElement("div");
  tip.id = "tip"; tip.hidden = true; tip.setAttribute("role", "status");
  document.body.append(tip);
  let drag = null;

  function mark(name, svg, make) {
    let el = svg.querySelector(":scope > ." + name);
    if (!el) { el = make(); el.setAttribute("class", name); svg.append(el); }
    el.style.display = "";
    return el;
  }

  function move(c, e) {
    const t = moment(c, e);
    if (t < from || t > to) { leave(); return; }
    for (const o of charts) {
      const l = mark("cross", o.svg, () => document.createElementNS(NS, "line"));
      for (const [k, v] of [["x1", x(t)], ["x2", x(t)], ["y1", 0], ["y2", o.bottom + 15]]) l.setAttribute(k, v);
      if (drag) {
        const r = mark("select", o.svg, () => document.createElementNS(NS, "rect"));
        for (const [k, v] of [["x", x(Math.min(drag.t, t))], ["width", Math.abs(x(t) - x(drag.t))], ["y", o.top], ["height", o.bottom - o.top]]) r.setAttribute(k, v);
      }
    }
    const lines = [t.toFixed(3) + " s" + data.phases.filter((p) => t >= p.from && t < p.to).map((p) => ", " + p.text).join("")];
    for (const f of data.faults) if (t >= f.from && t <= f.to) lines.push("⚡ " + f.text);
    const near = c.points.length ? nearest(c, e) : c.row ? below(c, e, t) : null;
    const pick = c.points.length && mark("pick", c.svg, () => document.createElementNS(NS, "circle"));
    if (near) {
      const p = near, n = data.names;
      if (pick) for (const [k, v] of [["cx", x(p[1] / 1e6)], ["cy", c.top + latencyY(c, p[1] - p[0])], ["r", 5.5]]) pick.setAttribute(k, v);
      lines.push("", `${n[p[4]]}${n[p[5]] ? " " + n[p[5]] : ""}${p[7] ? " = " + p[7] : ""}: ${OUTCOME[p[2]]} after ${span(p[1] - p[0])}`, `process ${p[3]}${n[p[6]] ? " at " + n[p[6]] : ""}, from ${(p[0] / 1e6).toFixed(6)} s`);
      if (p[8]) lines.push(p[8]);
    } else if (pick) pick.style.display = "none";
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    const w = tip.offsetWidth, h = tip.offsetHeight;
    tip.style.left = Math.max(4, e.clientX + 16 + w > innerWidth ? e.clientX - w - 16 : e.clientX + 16) + "px";
    tip.style.top = Math.max(4, Math.min(e.clientY + 14, innerHeight - h - 8)) + "px";
  }

  function nearest(c, e) {
    const box = c.svg.getBoundingClientRect(), k = 1160 / box.width;
    const px = (e.clientX - box.left) * k, py = (e.clientY - box.top) * k - c.top;
    let best = null, least = 12 * 12;
    for (const p of data.points) {
      const dx = x(p[1] / 1e6) - px;
      if (dx > 12 || dx < -12) continue;
      const dy = latencyY(c, p[1] - p[0]) - py, d = dx * dx + dy * dy;
      if (d < least) { least = d; best = p; }
    }
    return best;
  }

  // The call under the pointer among the clients, as far as it is one that is told.
  function below(c, e, t) {
    const box = c.svg.getBoundingClientRect();
    const row = Math.floor(((e.clientY - box.top) / box.width * 1160 - c.top) / c.row), slack = 3 * (to - from) / W;
    let best = null, least = slack;
    for (const p of data.points) {
      if (rows.get(p[3]) !== row) continue;
      const d = Math.max(p[0] / 1e6 - t, t - p[1] / 1e6, 0);
      if (d < least) { least = d; best = p; }
    }
    return best;
  }

  const span = (us) => us < 1000 ? us + " µs" : us < 1e6 ? (us / 1e3).toPrecision(3) + " ms" : (us / 1e6).toPrecision(3) + " s";

  function leave() {
    tip.hidden = true;
    for (const el of document.querySelectorAll(".cross,.pick,.select")) el.style.display = "none";
  }

  function down(c, e) {
    if (e.button !== 0 || e.pointerType === "touch") return;
    e.preventDefault();
    drag = { c, t: Math.min(Math.max(moment(c, e), from), to), x: e.clientX };
  }
  addEventListener("pointerup", (e) => {
    if (!drag) return;
    const d = drag;
    drag = null;
    if (Math.abs(e.clientX - d.x) > 5) {
      const t = Math.min(Math.max(moment(d.c, e), from), to);
      show(Math.min(d.t, t), Math.max(d.t, t));
    }
  });

  // On narrow screens charts are wider than the window: they move together.
  let moving = false;
  document.addEventListener("scroll", (e) => {
    if (moving || !e.target.classList || !e.target.classList.contains("time")) return;
    moving = true;
    for (const s of document.querySelectorAll(".scroll.time")) if (s !== e.target) s.scrollLeft = e.target.scrollLeft;
    requestAnimationFrame(() => { moving = false; });
  }, true);

  addEventListener("beforeprint", () => show(0, data.end));

  setUp();

  // Where a chart is wider than the window, begin where something happens.
  const first = data.focus ? data.focus[0] : data.points.length ? data.points[0][0] / 1e6 : 0;
  for (const s of document.querySelectorAll(".scroll.time")) s.scrollLeft = Math.max(0, (W * first / data.end) / 1160 * s.scrollWidth - 8);

  // A run that goes on: the server says when there is more.
  if (document.body.dataset.live && window.EventSource) {
    const events = new EventSource("events");
    let busy = false;
    events.addEventListener("change", async () => {
      if (busy) return;
      busy = true;
      try {
        const answer = await fetch("?format=page", { cache: "no-store" });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (!page.body.dataset.live) { location.reload(); return; }
        const open = [...document.querySelectorAll("details")].map((d) => d.open), was = [from, to, data.end];
        document.getElementById("main").replaceWith(document.adoptNode(page.getElementById("main")));
        document.getElementById("data").textContent = page.getElementById("data").textContent;
        document.querySelectorAll("details").forEach((d, i) => { d.open = !!open[i]; });
        setUp();
        if (was[0] > 0 || was[1] < was[2]) show(was[0], was[1]);
      } catch { /* the next change tries again */ } finally { busy = false; }
    });
    events.addEventListener("end", () => { events.close(); location.reload(); });
  }
})();
