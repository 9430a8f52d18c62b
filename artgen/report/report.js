"use strict";

// A slider is a native range input over the two pictures: keys, touch and screen readers come with it.
for (const input of document.querySelectorAll(".compare input")) {
  const box = input.parentElement;
  const update = () => {
    box.style.setProperty("--pos", input.value + "%");
    box.classList.toggle("at-start", input.value < 14);
    box.classList.toggle("at-end", input.value > 86);
    input.setAttribute("aria-valuetext", `${input.value} % before, ${100 - input.value} % restored`);
  };
  input.addEventListener("input", update);
  update(); // a browser may restore the value of an earlier visit
}

const search = document.getElementById("search");
if (search) {
  const rows = [...document.getElementById("rows").rows].map((row) => [row, row.textContent.toLowerCase()]);
  const found = document.getElementById("found");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const [row, text] of rows) {
      row.hidden = !text.includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    found.textContent = count === 1 ? "1 row" : `${count.toLocaleString("en")} rows`;
  });
}
