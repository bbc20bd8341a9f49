// Small comforts; every page works without them.

// A picture that the edge refuses says so in its frame.
for (const picture of document.querySelectorAll(".tile img")) {
  const refused = () => picture.closest(".tile").classList.add("locked");
  picture.addEventListener("error", refused);
  if (picture.complete && picture.naturalWidth === 0) refused();
}

// A click on a picture opens it over the page.
const light = document.querySelector("dialog.light");
if (light) {
  for (const link of document.querySelectorAll(".tile a")) {
    link.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || link.closest(".locked")) return;
      event.preventDefault();
      light.querySelector("img").src = link.href;
      light.querySelector("p").textContent = link.dataset.title;
      light.showModal();
    });
  }
  light.addEventListener("click", () => light.close());
}

// How long a link still lasts.
const inWords = (seconds) => {
  if (seconds <= 0) return "expired";
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const words = parts.map((n, i) => (n ? `${n} ${["h", "min", "s"][i]}` : "")).filter(Boolean);
  return `${words.join(" ")} left`;
};
for (const place of document.querySelectorAll("[data-expires]")) {
  const tick = () => {
    place.textContent = inWords(Number(place.dataset.expires) - Math.floor(Date.now() / 1000));
  };
  tick();
  setInterval(tick, 1000);
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  });
}
