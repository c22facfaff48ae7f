"use strict";
{
  const strip = document.getElementById("live");
  const bar = strip.querySelector("progress");
  const text = strip.querySelector("span");
  const every = 3000; // milliseconds between looks
  const shown = Date.now();
  let touched = 0; // when someone last used the page

  for (const name of ["pointerdown", "pointermove", "keydown", "wheel"]) {
    addEventListener(name, () => (touched = Date.now()), { passive: true });
  }

  async function look() {
    try {
      const answer = await fetch("progress.json", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const now = await answer.json();
      [bar.value, text.textContent] = [now.done, now.line];
      strip.classList.toggle("ended", now.ended);
      const idle = Date.now() - touched > 5000; // a page in use keeps its rows until it is left alone
      const read = Date.now() - shown > 10000; // rows may arrive every second
      if (now.version !== strip.dataset.version && idle && read) location.reload();
    } catch (error) {
      text.textContent = "no answer from raycomp watch: these are the last rows it read";
      strip.classList.add("ended");
    }
    setTimeout(look, every);
  }

  const place = "recipe of " + document.title;
  const kept = sessionStorage.getItem(place);
  if (kept) choose(kept);
  addEventListener("pagehide", () => sessionStorage.setItem(place, choice.value));
  look();
}
