(() => {
  // filter the table of flips as one types
  document.addEventListener("input", (event) => {
    if (event.target.id === "find-flip") {
      const sheet = event.target.closest(".sheet");
      const words = event.target.value.toLowerCase().trim();
      let shown = 0;
      for (const row of sheet.querySelectorAll("tbody tr")) {
        row.hidden = !row.textContent.replace(/\s+/g, " ").toLowerCase().includes(words);
        shown += row.hidden ? 0 : 1;
      }
      sheet.querySelector(".count").textContent = `${shown} shown`;
    }
    if (event.target.closest("#slider")) speak();
  });

  // what the slider's position means, for screen readers
  const speak = () => {
    const range = document.querySelector("#slider input[type=range]");
    const scale = document.querySelector("#scale .scale");
    if (!range || !scale) return false;
    range.setAttribute("aria-label", "Price of KL, beta");
    range.setAttribute("aria-valuetext", JSON.parse(scale.dataset.texts)[Number(range.value)]);
    return true;
  };

  // the answer is announced where it stands
  const begin = () => {
    const spoken = document.getElementById("spoken");
    if (!spoken || !speak()) return false;
    spoken.setAttribute("role", "status");
    spoken.setAttribute("aria-live", "polite");
    spoken.setAttribute("aria-atomic", "true");
    return true;
  };
  const timer = setInterval(() => { if (begin()) clearInterval(timer); }, 100);
})();
