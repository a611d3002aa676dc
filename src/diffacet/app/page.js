(function () {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  function layout(own, narrow) {
    const grid = colour("--grid"), soft = colour("--soft");
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true, tickfont: { color: soft } };
    const merged = Object.assign({
      height: 350, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5, color: colour("--ink") },
      margin: { l: 50, r: 12, t: 12, b: 44 }, hovermode: "closest", dragmode: false,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: narrow ? 10 : 12 } },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } }
    }, own);
    for (const name of ["xaxis", "yaxis"]) merged[name] = Object.assign({ fixedrange: true }, axis, own[name] || {});
    return merged;
  }
  function draw() {
    for (const source of document.querySelectorAll("script[data-plot]")) {
      const place = document.getElementById(source.dataset.plot), figure = JSON.parse(source.textContent);
      for (const trace of figure.data)
        if (trace.marker && trace.marker.color === "ink") trace.marker.color = colour("--ink");
      Plotly.react(place, figure.data, layout(figure.layout, place.clientWidth < 480), { responsive: true, displayModeBar: false });
    }
  }
  draw();
  dark.addEventListener("change", draw);
})();
