"use strict";

// Data travel as gzip in base64, in script elements that do not run.
async function unpacked(id) {
  const text = document.getElementById(id).textContent.trim();
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).blob();
}

async function defineViewer() {
  const script = document.createElement("script");
  script.type = "module";
  script.textContent = await (await unpacked("viewer-code")).text();
  document.head.append(script);
  await customElements.whenDefined("model-viewer");
}

async function show(place) {
  const model = document.createElement("model-viewer");
  const attributes = {
    alt: place.dataset.name,
    "camera-controls": "",
    "touch-action": "pan-y",
    "interaction-prompt": "none",
    "shadow-intensity": "0.7",
    "camera-orbit": "30deg 70deg auto",
    "auto-rotate-delay": "0",
    "rotation-per-second": "24deg",
  };
  for (const [name, value] of Object.entries(attributes)) model.setAttribute(name, value);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) model.setAttribute("auto-rotate", "");
  model.addEventListener("load", () => { place.dataset.state = "shown"; });
  model.addEventListener("error", (event) => {
    place.dataset.state = "failed";
    const note = document.createElement("p");
    note.textContent = "This object cannot be shown here: " + (event.detail?.type ?? "unknown error") + ".";
    place.replaceChildren(note);
  });
  const noBar = document.createElement("div");
  noBar.slot = "progress-bar";
  model.append(noBar);
  model.src = URL.createObjectURL(await unpacked(place.dataset.model));
  place.replaceChildren(model);
}

function showWhenNear(places) {
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      show(entry.target);
    }
  }, { rootMargin: "400px" });
  for (const place of places) observer.observe(place);
}

function enlarge(button) {
  const dialog = document.getElementById("large");
  const picture = button.querySelector("img");
  const large = dialog.querySelector("img");
  large.src = picture.src;
  large.alt = picture.alt;
  dialog.showModal();
}

for (const button of document.querySelectorAll(".zoom")) button.addEventListener("click", () => enlarge(button));
document.getElementById("large").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close();
});

const places = document.querySelectorAll(".viewer");
if (places.length) defineViewer().then(() => showWhenNear(places));
