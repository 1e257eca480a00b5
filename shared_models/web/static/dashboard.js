"use strict";

/* Fetches the part of the page that changes; without this script the page reloads by itself. */
(() => {
  const content = document.getElementById("content");
  const live = document.querySelector(".live");
  const connection = document.getElementById("connection");
  const pause = document.getElementById("pause");
  const everyMs = Number(live.dataset.every) * 1000;
  let shown = null;
  let lostAt = null;
  let isPaused = false;

  const isBusy = () => {
    const selection = document.getSelection();
    return isPaused || document.hidden || (selection !== null && !selection.isCollapsed);
  };

  const replace = (text) => {
    const open = new Set([...content.querySelectorAll("details[open][id]")].map((one) => one.id));
    const scrolled = [...content.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
    const focused = document.activeElement?.closest("#content [id]")?.id;
    content.innerHTML = text;
    for (const id of open) {
      document.getElementById(id)?.setAttribute("open", "");
    }
    [...content.querySelectorAll(".scroll")].forEach((one, place) => {
      [one.scrollLeft, one.scrollTop] = scrolled[place] ?? [0, 0];
    });
    if (focused && focused !== "content") {
      document.getElementById(focused)?.focus({ preventScroll: true });
    }
  };

  const tellLost = () => {
    lostAt ??= new Date().toLocaleTimeString();
    const sentence = live.dataset.lost.replace("%s", lostAt);
    if (connection.textContent !== sentence) {
      connection.textContent = sentence;
    }
  };

  const refresh = async () => {
    if (!isBusy()) {
      try {
        const answer = await fetch("/content", { cache: "no-store", redirect: "error" });
        if (answer.status === 401) {
          location.assign("/login");
          return;
        }
        if (!answer.ok) {
          throw new Error(String(answer.status));
        }
        const text = await answer.text();
        lostAt = null;
        connection.textContent = "";
        if (text !== shown && !isBusy()) {
          replace(text);
          shown = text;
        }
      } catch {
        tellLost();
      }
    }
    setTimeout(refresh, everyMs);
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? pause.dataset.resume : pause.dataset.pause;
  });
  setTimeout(refresh, everyMs);
})();
