// Dark or light before the first paint: what was chosen here, else what the system prefers. No module, so it blocks.

(() => {
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  } catch {
    // a browser that keeps nothing for us: the system's preference it is
  }
})();
