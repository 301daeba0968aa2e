// The charts: each kind makes traces from the runs that are shown, by functions of plain data.

const MOST_LINES = 24; // above it a line is a mean over seeds
const MOST_MARKERS = 30; // of a line
const MOST_ROWS = 12; // of the throughput chart
const WIDTHS = [4, 2.25, 1]; // points, by backend: where curves coincide, the narrower lies on the wider

let axis = "step";

// Plotly reads some HTML in its texts: a name stays text.
const text = (value) => String(value).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function groupsOf(runs) {
  const groups = new Map();
  for (const run of runs) groups.set(run.model, [...(groups.get(run.model) ?? []), run]);
  return [...groups.values()];
}

// [x, y], each the mean over the runs, as far as all of them go.
function meanOf(runs, pick) {
  const points = runs.map(pick);
  const shortest = points.reduce((a, b) => (a[0].length <= b[0].length ? a : b));
  const mean = (values) => (values.includes(null) ? null : values.reduce((a, b) => a + b, 0) / values.length);
  return [0, 1].map((part) => shortest[part].map((_, i) => mean(points.map((each) => each[part][i]))));
}

// A line a run, or, for many runs, a line a group of runs that differ in their seed alone.
function lines(runs, pick, mode = "lines") {
  const drawn = runs.filter((run) => pick(run)?.[0].length);
  const grouped = drawn.length > MOST_LINES;
  const entries = grouped ? groupsOf(drawn) : drawn.map((run) => [run]);
  const many = entries.length > MOST_LINES;
  const order = Object.keys(data.colours);
  const sorted = [...entries].sort(([a], [b]) => order.indexOf(a.backend) - order.indexOf(b.backend));
  const traces = sorted.map((members) => {
    const [run] = members;
    const [x, y] = grouped ? meanOf(members, pick) : pick(run);
    const name = grouped ? `${run.model}, ${members.length} seed${members.length > 1 ? "s" : ""}` : run.title;
    return {
      x, y, mode, opacity: many ? 0.6 : 1, name: text(name),
      line: { color: data.colours[run.backend], dash: data.dashes[run.family],
        width: entries.length > 12 ? 1.25 : WIDTHS[order.indexOf(run.backend)] },
      marker: { size: 5 },
      hovertemplate: "%{fullData.name}: %{y:.2f}<extra></extra>",
    };
  });
  const note = grouped ? `Each line is the mean over the seeds of one model: ${entries.length} lines for ${drawn.length} runs.` : "";
  return { traces, note: many ? `${note} Filters above show fewer.` : note, few: entries.length <= 8 };
}

const xOf = (run, steps) => (axis === "step" ? steps : run.secondsAStep && steps.map((step) => step * run.secondsAStep));

function curve(runs, key) {
  const pick = (run) => {
    const [steps, values] = run[key];
    const x = xOf(run, steps);
    return x ? [x, values] : null;
  };
  const marked = key === "validation" && runs.every((run) => run.validation[0].length <= MOST_MARKERS);
  const { traces, note, few } = lines(runs, pick, marked ? "lines+markers" : "lines");
  // From the lowest value that any run has after a tenth of its steps: the first steps are far below.
  const later = runs.flatMap((run) => run[key][1].filter((value, i) => value !== null && run[key][0][i] >= run[key][0].at(-1) / 10));
  const low = Math.min(...later), high = Math.max(...later);
  const margin = (high - low) * 0.06 || 1;
  return {
    traces, note,
    layout: {
      hovermode: few ? "x unified" : "closest",
      xaxis: { title: axis === "step" ? "step" : "seconds of steady training", rangemode: "tozero", hoverformat: ",.4~r" },
      yaxis: { title: "ELBO (nats)", ...(later.length ? { range: [low - margin, high + margin] } : {}) },
    },
  };
}

// A row's name on several lines; on a phone the family has its own.
const broken = (name) => (innerWidth < 600 ? name.replace(" ", "<br>") : name).replaceAll(", ", "<br>");

// A row a model, or, for many models, a row a backend and family with a mark for each run.
function throughput(runs) {
  const timed = runs.filter((run) => run.speed.median);
  const models = new Set(timed.map((run) => run.model)).size;
  const own = (run) => run.model.replace(`, ${run.what.device}`, ""); // the chart is a device's
  const nameOf = (run) => broken(text(models > MOST_ROWS ? `${run.backend} ${run.family}` : own(run)));
  const names = [...new Set(timed.map(nameOf))].reverse();
  const coloured = (run) => data.colours[run.backend];
  const floors = timed.filter((run) => run.speed.floor);
  const iqr = (run) => Math.round(run.speed.iqr).toLocaleString("en");
  const hover = (run) => `${text(run.title)}<br>%{x:,.0f} examples/s, IQR ${iqr(run)}<extra></extra>`;
  const traces = [
    {
      x: timed.map((run) => run.speed.median), y: timed.map(nameOf), mode: "markers",
      marker: { size: 9, color: timed.map(coloured) }, hovertemplate: timed.map(hover),
    },
    {
      x: floors.map((run) => run.speed.floor), y: floors.map(nameOf), mode: "markers",
      marker: { symbol: "line-ns-open", size: 20, line: { width: 2 }, color: floors.map(coloured) },
      hovertemplate: floors.map((run) => `${text(run.title)}<br>floor: %{x:,.0f} examples/s<extra></extra>`),
    },
    // An error bar has one colour a trace: a trace a backend.
    ...Object.entries(data.colours).map(([backend, color]) => {
      const own = timed.filter((run) => run.backend === backend);
      return {
        x: own.map((run) => run.speed.median), y: own.map(nameOf), mode: "markers", hoverinfo: "skip", marker: { opacity: 0 },
        error_x: {
          type: "data", array: own.map((run) => run.speed.iqr / 2), color, thickness: 5, width: 0,
          symmetric: false, arrayminus: own.map((run) => Math.min(run.speed.iqr / 2, run.speed.median)),
        },
      };
    }),
  ];
  const deep = Math.max(1, ...names.map((name) => name.split("<br>").length));
  return {
    traces: timed.length ? traces : [],
    note: models > MOST_ROWS ? `Each row holds all runs of a backend and family: ${models} models. Filters above show fewer.` : "",
    layout: {
      height: 90 + names.length * (18 + 16 * deep), hovermode: "closest",
      xaxis: { title: "examples/s", rangemode: "tozero", tickformat: "~s" },
      yaxis: { type: "category", categoryarray: names, range: [-0.6, names.length - 0.4], showgrid: false, title: "" },
    },
  };
}

function samples(runs) {
  const pick = ({ bySamples }) => bySamples && [bySamples.samples, bySamples.log_px];
  const { traces, note, few } = lines(runs, pick, "lines+markers");
  return {
    traces, note,
    layout: {
      hovermode: few ? "x unified" : "closest", xaxis: { type: "log", dtick: 1, title: "K" },
      yaxis: { title: "log p(x) (nats)" },
    },
  };
}

function kl(runs) {
  const { traces, note, few } = lines(runs, (run) => run.kl && [run.kl.map((_, i) => i + 1), run.kl]);
  return {
    traces, note,
    layout: {
      hovermode: few ? "x unified" : "closest", xaxis: { title: "latent dimension, by KL", rangemode: "tozero" },
      yaxis: { title: "KL (nats)", rangemode: "tozero" },
    },
  };
}

const KINDS = { training: (runs) => curve(runs, "training"), validation: (runs) => curve(runs, "validation"), throughput, samples, kl };

const axisOf = (own, ruled) => ({ ...ruled, ...own, title: { text: own.title, font: { size: 12 }, standoff: 10 } });

function draw(figure, runs) {
  const { dataset, device, chart } = figure.dataset;
  const own = runs.filter((run) => run.what["data set"] === dataset && (!device || run.what.device === device));
  figure.hidden = own.length === 0;
  if (figure.hidden) return;
  const { traces, layout, note } = KINDS[chart](own);
  const line = figure.querySelector(".note");
  line.textContent = traces.length ? note : "None of the runs shown here has this.";
  line.hidden = !line.textContent;
  const plot = figure.querySelector(".plot");
  plot.hidden = traces.length === 0;
  if (plot.hidden) return;
  const { color, borderTopColor, fontFamily } = getComputedStyle(figure); // the theme's
  const { color: ink, backgroundColor: paper } = getComputedStyle(document.body);
  const ruled = { gridcolor: borderTopColor, zeroline: false, linecolor: borderTopColor, automargin: true, ...touch.axes };
  Plotly.react(plot, traces, {
    height: 330, margin: { l: 50, r: 28, t: 12, b: 45 }, showlegend: false, dragmode: touch.drag,
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { family: fontFamily, size: 12, color },
    hoverlabel: { bgcolor: paper, bordercolor: borderTopColor, align: "left", namelength: -1, font: { family: fontFamily, color: ink } },
    ...layout, xaxis: axisOf(layout.xaxis, ruled), yaxis: axisOf(layout.yaxis, ruled),
  }, { responsive: true, displaylogo: false, displayModeBar: false });
}

// A finger scrolls the page, and doesn't zoom a chart.
const touch = matchMedia("(pointer: coarse)").matches ? { drag: false, axes: { fixedrange: true } } : { drag: "zoom", axes: {} };

// Plotly is packed: gzip in base64.
async function unpacked(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = await unpacked(document.getElementById("plotly").textContent.trim());
  document.head.append(script);
}
