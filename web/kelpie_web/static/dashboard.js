// What the pages do besides showing what the server rendered: they follow changes, and obey keys.
"use strict";
(() => {
  const body = document.body;
  const $ = (selector) => document.querySelector(selector);

  // Times: in UTC as they came, or in the zone of this machine.
  const pad = (number) => String(number).padStart(2, "0");
  const local = (at) =>
    `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  const isLocal = () => localStorage.getItem("kelpie-zone") === "local";
  const showTimes = () => {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const told = time.getAttribute("datetime");
      const text = isLocal() ? local(new Date(told)) : `${told.slice(0, 19).replace("T", " ")} UTC`;
      if (time.textContent !== text) time.textContent = text;
    }
    $("[data-zone]").textContent = isLocal() ? "local" : "UTC";
  };
  document.addEventListener("htmx:after:settle", showTimes);

  // Live: the server says that something has changed, and the page asks for what it shows.
  const banner = $("#stale");
  const stale = (text) => {
    banner.querySelector("[data-stale]").textContent = text;
    banner.hidden = false;
  };
  const fresh = () => {
    banner.hidden = true;
    const since = banner.querySelector("time");
    since.setAttribute("datetime", new Date().toISOString());
    showTimes();
  };
  const tell = (name) => body.dispatchEvent(new CustomEvent(name));
  const leave = () => {
    location.href = `${body.dataset.login}?next=${encodeURIComponent(location.pathname + location.search)}`;
  };
  const LOOK_EVERY_MS = 10000; // what no event tells: nodes that fall silent
  if (body.dataset.events) {
    let wasAway = false;
    const stream = new EventSource(body.dataset.events);
    stream.addEventListener("open", () => {
      if (wasAway) tell("kelpie:look");
      wasAway = false;
    });
    stream.addEventListener("change", () => tell("kelpie:change"));
    stream.addEventListener("ended", () => {
      stream.close();
      leave();
    });
    stream.addEventListener("error", () => {
      wasAway = true;
      stale("The server cannot be reached; the page tries again.");
      if (stream.readyState === EventSource.CLOSED) tell("kelpie:look");
    });
    setInterval(() => {
      if (!document.hidden) tell("kelpie:look");
    }, LOOK_EVERY_MS);
    document.addEventListener("htmx:after:request", (event) => {
      const status = event.detail.ctx?.response?.raw?.status ?? event.detail.ctx?.response?.status;
      if (status === 401) leave();
      else if (status >= 500) stale("The server cannot reach Redis, or is broken.");
      else if (status < 400) fresh();
    });
    document.addEventListener("htmx:error", () => stale("The server cannot be reached; the page tries again."));
    window.addEventListener("pagehide", () => stream.close());
  }

  // Buttons.
  const deeds = {
    theme() {
      const next = document.documentElement.dataset.bsTheme === "dark" ? "light" : "dark";
      localStorage.setItem("kelpie-theme", next);
      document.documentElement.dataset.bsTheme = next;
    },
    zone() {
      localStorage.setItem("kelpie-zone", isLocal() ? "utc" : "local");
      showTimes();
    },
    help: () => $("#help").showModal(),
    async copy(button) {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
    },
    "choose-all"(box) {
      for (const each of document.querySelectorAll('input[name="id"]')) each.checked = box.checked;
    },
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) deeds[button.dataset.do](button);
  });

  // Keys.
  const places = { o: "/ui", j: "/ui/jobs", n: "/ui/nodes", g: "/ui/groups", w: "/ui/webhooks", a: "/ui/audit" };
  let went = 0;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !body.dataset.events) return;
    if (Date.now() - went < 1000 && places[event.key]) {
      location.href = places[event.key];
    } else if (event.key === "g") {
      went = Date.now();
    } else if (event.key === "/") {
      event.preventDefault();
      if ($("#q")) $("#q").focus();
      else location.href = "/ui/jobs#q";
    } else if (event.key === "?") {
      deeds.help();
    } else if (event.key === "n" && document.querySelector('a[href="/ui/submit"]')) {
      location.href = "/ui/submit";
    }
  });
  if (location.hash === "#q") $("#q")?.focus();

  showTimes();
})();
