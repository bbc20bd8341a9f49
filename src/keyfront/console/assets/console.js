// Everything works without this script. It renews the parts of a page that change by themselves: an element with
// data-refresh="SECONDS" and an id is replaced by the one with the same id in a fresh copy of the page.
"use strict";

const HEADERS = { "X-Console-Refresh": "1" };
const stale = document.getElementById("stale");

async function renew(element) {
  const response = await fetch(location.href, { headers: HEADERS, credentials: "same-origin", redirect: "manual" });
  if (response.type === "opaqueredirect") {
    location.reload(); // the session is over: this leads to the log-in
    return;
  }
  if (!response.ok) throw new Error(`status ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById(element.id);
  if (fresh && !element.contains(document.activeElement) && !element.querySelector("details[open]")) {
    element.replaceChildren(...fresh.childNodes);
  }
}

for (const element of document.querySelectorAll("[data-refresh][id]")) {
  setInterval(async () => {
    if (document.visibilityState !== "visible") return;
    try {
      await renew(element);
      stale.hidden = true;
    } catch {
      stale.hidden = false;
    }
  }, Number(element.dataset.refresh) * 1000);
}

// A button with data-copy="ID" copies the text of that element.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
    button.textContent = "Copied";
  });
}
