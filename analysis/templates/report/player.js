// One checkpoint for all pictures of circuits: a slider with a play button, also by arrow keys and space.

const PAUSE = 600;  // milliseconds between checkpoints
let playing = null;

function drawPlayer() {
  const steps = shownSteps();
  step();
  const slider = h("input", {
    type: "range", id: "checkpoint", min: 0, max: Math.max(steps.length - 1, 0), disabled: !steps.length, step: 1, "aria-label": "checkpoint",
    input: (event) => { stop(); goTo(Number(event.target.value)); },
    change: saveView,  // not at each step on the way: browsers limit how often an address changes
  });
  slider.value = state.circuits.at;
  $("circuits-player").replaceChildren(
    h("button", { type: "button", id: "play", disabled: steps.length < 2, click: () => (playing ? stop() : play()) }),
    slider, h("output", { for: "checkpoint", id: "checkpoint-text" }));
  if (steps.length < 2) stop();
  drawPlaying();
  drawCheckpoint();
}

/** The browser handles the slider's own keys; these are for the rest of the player, and space for both. */
$("circuits-player").addEventListener("keydown", (event) => {
  const onSlider = event.target.id === "checkpoint";
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (onSlider && event.key === " " && shownSteps().length > 1) (playing ? stop : play)();
  else if (!onSlider && by && shownSteps().length) {
    stop();
    goTo(Math.min(Math.max(state.circuits.at + by, 0), shownSteps().length - 1));
    saveView();
  } else return;
  event.preventDefault();
});

function drawPlaying() {
  $("play").replaceChildren(playing ? "❚❚" : "▶", h("span", { class: "words" }, playing ? " Pause" : " Play"));
  $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
}

function drawCheckpoint() {
  const steps = shownSteps();
  drawRates();
  const text = steps.length ? `checkpoint ${step()} (${state.circuits.at + 1} of ${steps.length})` : "no checkpoint";
  $("checkpoint-text").textContent = text;
  $("checkpoint").setAttribute("aria-valuetext", text);
}

function goTo(at) {
  state.circuits.at = at;
  $("checkpoint").value = at;
  drawCheckpoint();
  followHeads();
  followAttention();
  followPlace();
  followPrompt();
  follow(...CIRCUITS);
}

function play() {
  const forward = () => {
    goTo((state.circuits.at + 1) % shownSteps().length);
    playing = setTimeout(forward, PAUSE);  // after drawing, however long it took
  };
  forward();
  drawPlaying();
}

function stop() {
  if (!playing) return;
  clearTimeout(playing);
  playing = null;
  drawPlaying();
  saveView();
}
