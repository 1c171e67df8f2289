"""One run: its configuration, its tables, and its model at every checkpoint."""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from mi_sweeps.analysis import terminal
from mi_sweeps.api.tables import Tables, warned
from mi_sweeps.commands import common
from mi_sweeps.errors import UserError
from mi_sweeps.store.folders import RunFolder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mi_sweeps.api.sweep import Plan
    from mi_sweeps.config import Config
    from mi_sweeps.sweeps.points import GridPoint
    from mi_sweeps.tasks.pairs import Pairs
    from mi_sweeps.tasks.task import Task

HTML = '<pre style="font-family: monospace; line-height: 1.2">{code}</pre>'
WIDTH = 120
"""Width in columns for a notebook."""


class Run(Tables):
    """One run with its patch jobs. A notebook shows what `mi-sweeps show` prints."""

    @property
    def id(self) -> str:
        """Its run id."""
        return self._found.runs[0].run_id

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._found.runs[0].path

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration as plain values; empty before it was started."""
        return self._found.runs[0].config

    @property
    def about(self) -> dict[str, Any]:
        """Its run.json: the model's architecture, versions, the runs of its stack, ..."""
        return self._found.runs[0].about

    @property
    def status(self) -> dict[str, Any]:
        """Its status.json: `state`, `attempts`, `seconds`, `host`, `error`, ..."""
        return self._found.runs[0].status

    @property
    def steps(self) -> list[int]:
        """The checkpoints whose weights exist."""
        point = self._points[0]
        reached = self._folder.status_on_disk().reached(point.checkpoint_steps)
        return [step for step in reached if point.is_series or self._folder.checkpoint(step).exists()]

    def model(self, step: int, device: str = "cpu", attention: Literal["eager"] | None = None) -> PreTrainedModel:
        """Loads the Hugging Face model at a checkpoint, in fp32 and in evaluation mode. You may change it.

        Args:
            device: as `launcher.device`: cpu, cuda, cuda:1 or auto.
            attention: patch jobs use `eager`; None leaves the choice to transformers.

        Raises:
            UserError: there is no such checkpoint, or the model's files have changed since training.

        >>> run = open(finished).select(seed=0).run()
        >>> run.steps
        [0, 2, 4]
        >>> type(run.model(4)).__name__
        'GPT2LMHeadModel'
        >>> run.model(3)
        Traceback (most recent call last):
        mi_sweeps.errors.UserError: step 3: run ... has no checkpoint there; there are: 0, 2, 4
        """
        if step not in self.steps:
            there = ", ".join(map(str, self.steps)) or "none"
            raise UserError(f"step {step}: run {self.id} has no checkpoint there; there are: {there}")
        from mi_sweeps.models.load import pick_device
        from mi_sweeps.training.models_at import models_at

        config = self._checked.config
        ((_, model),) = models_at(config, self._folder, [step], pick_device(device), attention)
        return model

    def bridge(self, step: int, device: str = "cpu") -> TransformerBridge:
        """Loads the model into TransformerLens with raw weights (nothing folded or centred), as the reference engine
        does.

        Raises:
            UserError: as for `model`; or TransformerLens does not support the architecture.
        """
        if self.tokenizer is None:
            name = self.config["model"]["name"]
            raise UserError(f"model={name}: TransformerLens does not support it; `model` gives the Hugging Face model")
        from mi_sweeps.circuits.reference import wrap

        return wrap(self.model(step, device, attention="eager"), self.tokenizer)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The model's tokenizer; None for a model trained from scratch."""
        from mi_sweeps.models.load import load_tokenizer
        from mi_sweeps.series.checkpoints import single

        return load_tokenizer(single(self._checked.config))

    @cached_property
    def task(self) -> Task:
        """The run's task, with `splits`, `pairs` and `metrics` (`mi_sweeps.tasks.task.Task`).

        Raises:
            UserError: it no longer makes the run's prompts.
        """
        return self._task_of(self._checked.config, self._folder.about)

    def _task_of(self, config: Config, *records: Path) -> Task:
        """A task, after checking that it makes the prompts that were used."""
        from mi_sweeps.identity import data_folder
        from mi_sweeps.tasks import prompt_hashes
        from mi_sweeps.tasks.load import load

        data = data_folder(config)
        task = load(config, self.tokenizer, cache=data)
        made = prompt_hashes.of_task(task, training=False)
        prompt_hashes.compare(config, made, *records, prompt_hashes.record_of(data))
        return task

    def pairs(self, corruption: str, count: int | None = None) -> Pairs:
        """Returns pairs of clean and corrupted prompts, with the tokens of their logit difference.

        Args:
            corruption: as in tables; for a patch job on another task's prompts, "ioi2-first".
            count: how many pairs; None means those of the run's patch job under that corruption.

        Raises:
            UserError: the task has no such corruption, or patch jobs under it have different numbers of prompts.

        >>> pairs = open(finished).select(seed=0).run().pairs("second")
        >>> len(pairs.clean), pairs.clean.prompts[0].text == pairs.corrupted.prompts[0].text
        (6, False)
        """
        jobs = [point.config for point in self._points]
        asked = [one for one in jobs if one.prompts_label == corruption]
        counts = {one.patching.prompts for one in asked or jobs}
        if count is None and len(counts) > 1:
            several = " and ".join(map(str, sorted(counts)))
            raise UserError(f"pairs: patch jobs under corruption={corruption} have {several} prompts; give count=")
        count = count if count is not None else min(counts)
        if not asked:
            return self.task.pairs(corruption, count)
        from mi_sweeps.identity import data_folder
        from mi_sweeps.tasks import prompt_hashes
        from mi_sweeps.tasks.load import patched_pairs

        config = asked[0].for_patching
        patching = config.patching.model_copy(update={"prompts": count})
        config = config.model_copy(update={"patching": patching})
        pairs = patched_pairs(self._task_of(config) if patching.task else self.task, config)
        made = prompt_hashes.of_pairs(pairs, config)
        prompt_hashes.compare(config, made, prompt_hashes.record_of(data_folder(config)))
        return pairs

    def zoom(self, start: int, to: int, every: int = 1, *overrides: str) -> Plan:
        """Plans a zoom, as `mi-sweeps zoom` does: training this run again with checkpoints from `start` to `to`.

        Args:
            overrides: of corruption, launcher and tracking.

        Raises:
            UserError: the run cannot be trained again, bit for bit.
        """
        # A run zooms into a plan, whose results are runs again: hence this import here.
        from mi_sweeps.api.sweep import Plan
        from mi_sweeps.sweeps import quick_checks, zoom

        words = [f"from={start}", f"to={to}", f"every={every}", *overrides]
        points = zoom.points(self._folder, self._found.path, words)
        quick_checks.check(points)
        return Plan(tuple(points), ("zoom", self.id, *words))

    def show(self, site: str = "z", step: int | None = None) -> None:
        """Prints the run as `mi-sweeps show` does.

        Args:
            site: the site of the heads.
            step: the checkpoint for the heads; None means the last.
        """
        self._show(common.console(), site, step)

    def _show(self, console: Console, site: str = "z", step: int | None = None) -> None:
        warned(lambda damaged: terminal.show(console, self._found, site, step, damaged))

    def __repr__(self) -> str:
        return f"run {self.id} ({self.status['state']}) in {self.path}"

    def _repr_html_(self) -> str:
        console = Console(
            record=True, file=io.StringIO(), width=WIDTH, highlight=False, force_terminal=True,
            color_system="truecolor", force_jupyter=False, legacy_windows=False,
        )  # fmt: skip
        self._show(console)
        return console.export_html(inline_styles=True, code_format=HTML)

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.path)

    @cached_property
    def _points(self) -> list[GridPoint]:
        """Its patch jobs with their whole configuration."""
        from mi_sweeps.sweeps import manifest

        points = manifest.points_of(self._found.path, self._folder)
        if not points:
            raise UserError(f"{self.path}: in no sweep and without a patch job, so its configuration is unknown")
        return points

    @cached_property
    def _checked(self) -> GridPoint:
        """One of its points, after checking that the model and the prompts are still those of the run."""
        from mi_sweeps.jobs.finetune import check_identity

        point = self._points[0]
        check_identity(point.config, self._folder)
        return point
