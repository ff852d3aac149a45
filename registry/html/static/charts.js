// Draws the charts of a page by Plotly, in place of the server's drawings, from the same data.
"use strict";

(() => {
  const script = document.currentScript.dataset.plotly;
  const figures = [...document.querySelectorAll("figure.chart")]
    .map((figure) => ({ figure, data: figure.querySelector('script[type="application/json"]') }))
    .filter((each) => each.data);
  if (!figures.length || !script) return;

  // Plotly shows <b> and links that a text contains; names of classes are no markup.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
  const color = (name) =>
    getComputedStyle(document.querySelector(".registry")).getPropertyValue(name).trim();

  const span = ({ labels }) =>
    (new Date(labels[labels.length - 1]) - new Date(labels[0])) / 86_400_000;

  function largest({ series, labels, kind, stacked }) {
    const adds = kind === "rows" || (stacked && kind !== "line");
    return Math.max(...labels.map((_, index) => {
      const column = series.map(({ values }) => values[index]);
      return adds ? column.reduce((sum, value) => sum + value, 0) : Math.max(...column);
    }));
  }

  function traces(chart) {
    const rows = chart.kind === "rows";
    // By their indexes: two labels may be equal once they are cut, and Plotly would merge them.
    const places = chart.days ? chart.labels : chart.labels.map((_, index) => index);
    return chart.series.map((series, index) => {
      const filled = chart.kind === "area";
      const bars = rows || chart.kind === "bars";
      const shade = color(`--class-${series.color}`);
      return {
        name: plain(short(series.name, 40)),
        type: bars ? "bar" : "scatter",
        mode: bars ? undefined : "lines",
        orientation: rows ? "h" : "v",
        x: rows ? series.values : places,
        y: rows ? places : series.values,
        stackgroup: filled && chart.stacked ? "all" : undefined,
        fill: filled && !chart.stacked ? "tozeroy" : undefined,
        line: { color: shade, width: 1.75 },
        marker: { color: shade },
        fillcolor: filled ? `${shade}40` : undefined,
        text: chart.labels.map((label) => plain(short(label, 80))),
        textposition: "none",
        hovertemplate: rows
          ? "%{text}: %{x:,}<extra>%{fullData.name}</extra>"
          : "%{y:,}<extra>%{fullData.name}</extra>",
      };
    });
  }

  function layout(chart, height) {
    const rows = chart.kind === "rows";
    const axis = {
      gridcolor: color("--gridline"), zerolinecolor: color("--gridline"), linecolor: color("--gridline"),
      automargin: true, fixedrange: false,
    };
    const labels = chart.days
      ? { ...axis, type: "date", showgrid: false, hoverformat: "%Y-%m-%d",
          // In one line: Plotly styles the lines of a text by attributes, which the policy refuses.
          tickformat: span(chart) > 400 ? "%b %Y" : "%b %-d",
          // No label between two days.
          ...(span(chart) < 10 ? { dtick: 86_400_000, tick0: chart.labels[0] } : {}) }
      : {
          ...axis, showgrid: false, fixedrange: true,
          tickvals: chart.labels.map((_, index) => index),
          ticktext: chart.labels.map((label) => plain(short(label, rows ? 22 : 14))),
        };
    const values = { ...axis, rangemode: "tozero", fixedrange: true, tickformat: "~s",
      // No label between two samples.
      ...(largest(chart) < 5 ? { dtick: 1, tickformat: "d" } : {}) };
    return {
      height,
      xaxis: rows ? values : labels,
      yaxis: rows ? { ...labels, autorange: "reversed" } : values,
      barmode: chart.stacked || rows ? "stack" : "group",
      bargap: 0.25,
      hovermode: rows ? "closest" : "x unified",
      hoverlabel: { bgcolor: color("--surface"), bordercolor: color("--line"),
                    font: { color: color("--text") } },
      showlegend: false,
      dragmode: chart.days ? "zoom" : false,
      margin: { l: 44, r: 8, t: 8, b: 28 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: color("--axis") },
    };
  }

  function draw({ figure, data }) {
    const chart = JSON.parse(data.textContent);
    const drawing = figure.querySelector(".chart-drawing");
    let plot = figure.querySelector(".chart-plot");
    if (!plot) {
      plot = document.createElement("div");
      plot.className = "chart-plot";
      // The drawing's text and the table say the same to screen readers.
      plot.setAttribute("aria-hidden", "true");
      drawing.after(plot);
      toggles(figure, plot);
    }
    const height = chart.kind === "rows" ? 22 * chart.labels.length + 40 : 240;
    const options = { displayModeBar: false, responsive: true, showTips: false };
    Plotly.react(plot, traces(chart), layout(chart, height), options);
    // Kept for screen readers, which read its text.
    drawing.classList.add("hidden");
    drawing.removeAttribute("tabindex");
  }

  function toggles(figure, plot) {
    figure.querySelectorAll(".chart-legend li").forEach((item, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.append(...item.childNodes);
      item.append(button);
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        Plotly.restyle(plot, { visible: shown }, [index]);
      });
    });
  }

  // While it loads, Plotly adds a style sheet for maps, which no page has. The content security
  // policy would refuse it, with an error in the console.
  const { head } = document;
  head.appendChild = (node) =>
    node.nodeName === "STYLE" ? node : Node.prototype.appendChild.call(head, node);
  const plotly = document.createElement("script");
  plotly.src = script;
  plotly.addEventListener("load", () => {
    delete head.appendChild;
    figures.forEach(draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      figures.forEach(draw));
  });
  plotly.addEventListener("error", () => { delete head.appendChild; });
  head.append(plotly);
})();
