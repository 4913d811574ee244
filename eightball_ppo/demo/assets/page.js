(() => {
  // filter the table of changed answers while the user types
  document.addEventListener("input", (event) => {
    if (event.target.id === "find-change") {
      const sheet = event.target.closest(".sheet");
      const query = event.target.value.toLowerCase().trim();
      let shown = 0;
      for (const row of sheet.querySelectorAll("tbody tr")) {
        row.hidden = !row.textContent.replace(/\s+/g, " ").toLowerCase().includes(query);
        shown += row.hidden ? 0 : 1;
      }
      sheet.querySelector(".count").textContent = `${shown} shown`;
    }
    if (event.target.closest("#slider")) describeSlider();
  });

  // the slider's beta, for screen readers
  const describeSlider = () => {
    const range = document.querySelector("#slider input[type=range]");
    const scale = document.querySelector("#scale .scale");
    if (!range || !scale) return false;
    range.setAttribute("aria-label", "beta");
    range.setAttribute("aria-valuetext", JSON.parse(scale.dataset.texts)[Number(range.value)]);
    return true;
  };

  // screen readers announce the reply
  const begin = () => {
    const reply = document.getElementById("reply");
    if (!reply || !describeSlider()) return false;
    reply.setAttribute("role", "status");
    reply.setAttribute("aria-live", "polite");
    reply.setAttribute("aria-atomic", "true");
    return true;
  };
  const timer = setInterval(() => { if (begin()) clearInterval(timer); }, 100);
})();
